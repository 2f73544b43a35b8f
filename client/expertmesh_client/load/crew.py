"""The worker processes of a load, from the command's side."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from expertmesh_client.load.histogram import Histogram
from expertmesh_client.load.plan import PER_USER, Job, Rung, users_of
from expertmesh_client.load.problems import LoadFailed
from expertmesh_client.load.recorder import Recorder

LEAD_S = 0.2  # between the word to start and the start, so that all workers have heard it
END_WITHIN_S = 5.0
LONGEST_LINE = 2**26  # bytes
Result = TypeVar("Result")


@dataclass
class Progress:
    """How a rung stands."""

    rung: Rung
    began: float  # on the monotonic clock
    under_way: int = 0
    done: int = 0
    failed: int = 0
    first_token: Histogram = field(default_factory=Histogram)

    @property
    def elapsed_s(self) -> float:
        return max(0.0, time.monotonic() - self.began)


class Crew:
    """Workers that act on rungs together. Made by `crew_of`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._workers: list[asyncio.subprocess.Process] = []
        self._stopped = False

    async def start(self) -> None:
        for number in range(self._job.processes):
            # A session of its own: Ctrl-C is for the command alone, which then asks for what there is.
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "expertmesh_client.load.worker"),
                env={"GRPC_VERBOSITY": "NONE", **os.environ, "EXPERTMESH_PARENT": str(os.getpid())},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
                start_new_session=True,
            )
            self._workers.append(worker)
            _tell(worker, {"job": self._job.model_dump(mode="json"), "worker": number})
        await _all(_ready(worker) for worker in self._workers)

    async def run(self, rung: Rung, on_progress: Callable[[Progress], None] = lambda _: None) -> Recorder:
        """Act on one rung; returns what all workers counted together.

        Raises:
            LoadFailed: the target takes no connections, or a worker ended.
        """
        for number, worker in enumerate(self._workers):
            each = self._job.connections
            connections = len(users_of(self._job, rung, number)) if each == PER_USER else each
            _tell(worker, {"rung": rung.model_dump(), "connections": max(1, connections)})
        await _all(_ready(worker) for worker in self._workers)
        zero = time.monotonic() + LEAD_S
        for worker in self._workers:
            _tell(worker, {"go": zero})
        if self._stopped:
            self.stop()
        latest: dict[int, dict[str, Any]] = {}

        def note(worker: int, told: dict[str, Any]) -> None:
            latest[worker] = told
            on_progress(_summed(rung, zero, latest))

        all_of_it = Recorder()
        for recorder in await _all(_result(at, worker, note) for at, worker in enumerate(self._workers)):
            all_of_it.merge(recorder)
        return all_of_it

    def stop(self) -> None:
        """End the rung that runs, and every later one at once."""
        self._stopped = True
        for worker in self._workers:
            _tell(worker, {"stop": True})

    async def close(self) -> None:
        await asyncio.gather(*(_end(worker) for worker in self._workers))


@asynccontextmanager
async def crew_of(job: Job) -> AsyncIterator[Crew]:
    """Run a job's workers until the block ends."""
    crew = Crew(job)
    try:
        await crew.start()
        yield crew
    finally:
        await crew.close()


def _tell(worker: asyncio.subprocess.Process, what: Mapping[str, Any]) -> None:
    assert worker.stdin is not None, "it was started with a pipe"
    if not worker.stdin.is_closing():
        worker.stdin.write(json.dumps(what).encode() + b"\n")


async def _all(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return what works return, side by side; the first that fails ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _heard(worker: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the next thing that a worker says. Raises LoadFailed where that is its end."""
    assert worker.stdout is not None, "it was started with a pipe"
    line = await worker.stdout.readline()
    if not line:
        assert worker.stderr is not None, "it was started with a pipe"
        last = (await worker.stderr.read()).decode(errors="replace").strip().splitlines()
        raise LoadFailed(f"a generator process ended with {await worker.wait()}: {last[-1] if last else 'no words'}")
    told: dict[str, Any] = json.loads(line)
    if "failed" in told:
        raise LoadFailed(told["failed"])
    return told


async def _ready(worker: asyncio.subprocess.Process) -> None:
    while "ready" not in await _heard(worker):
        pass


async def _result(
    number: int, worker: asyncio.subprocess.Process, note: Callable[[int, dict[str, Any]], None]
) -> Recorder:
    while True:
        told = await _heard(worker)
        if "result" in told:
            return Recorder.from_data(told["result"])
        note(number, told["progress"])


def _summed(rung: Rung, zero: float, latest: Mapping[int, dict[str, Any]]) -> Progress:
    progress = Progress(rung, zero)
    for told in latest.values():
        progress.under_way += told["under_way"]
        progress.done += told["done"]
        progress.failed += told["failed"]
        progress.first_token.merge(Histogram.from_data(told["first_token"]))
    return progress


async def _end(worker: asyncio.subprocess.Process) -> None:
    assert worker.stdin is not None, "it was started with a pipe"
    worker.stdin.close()
    try:
        async with asyncio.timeout(END_WITHIN_S):
            await worker.communicate()
    except TimeoutError:
        worker.kill()
        await worker.communicate()
