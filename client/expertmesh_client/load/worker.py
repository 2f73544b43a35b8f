"""A process that puts load on a target: `python -m expertmesh_client.load.worker`, started by `crew`.

It reads JSON objects from standard input, one a line: first `{"job": …, "worker": N}`, then for each rung
`{"rung": …, "connections": N}`, and when it said `{"ready": true}`, `{"go": SECONDS}`: the rung's start on the
monotonic clock, which all processes of a machine share. `{"stop": true}` ends the rung that runs. It answers on
standard output with `{"progress": …}`, `{"result": …}` or `{"failed": "why"}`. It ends with its input.
"""

import asyncio
import json
import sys
from typing import Any

from expertmesh_client.load.plan import Asks, Job, Rung
from expertmesh_client.load.problems import BadLoad, LoadFailed
from expertmesh_client.load.sending import Sender
from expertmesh_client.load.ways import Way, way_of
from mesh_wire import process

PROGRESS_EVERY_S = 0.5


class Worker:
    """Keeps the connections from rung to rung."""

    def __init__(self, job: Job, number: int) -> None:
        self._job = job
        self._number = number
        self._asks = Asks(job)
        self._way: Way | None = None
        self._connections = 0
        self._sender: Sender | None = None
        self._task: asyncio.Task[None] | None = None

    def hear(self, told: dict[str, Any]) -> None:
        """Act on a line, without waiting for what comes of it."""
        if told.get("stop"):
            if self._sender is not None:
                self._sender.stop()
        elif "rung" in told:
            self._task = asyncio.create_task(self._prepare(Rung.model_validate(told["rung"]), told["connections"]))
        elif self._sender is not None:
            self._task = asyncio.create_task(_run(self._sender, told["go"]))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._way is not None:
            await self._way.close()

    async def _prepare(self, rung: Rung, connections: int) -> None:
        """Connect where that is not done, and draw what will be asked."""
        try:
            if self._way is None or connections != self._connections:
                if self._way is not None:
                    await self._way.close()
                self._way, self._connections = way_of(self._job, connections), connections
                await self._way.ready()
            self._sender = Sender(self._job, rung, self._asks, self._way, self._number)
        except (BadLoad, LoadFailed) as error:
            say({"failed": str(error)})
            return
        process.settle()
        say({"ready": True})


async def _run(sender: Sender, zero: float) -> None:
    telling = asyncio.create_task(_tell(sender))
    try:
        recorder = await sender.run(zero)
    except Exception as error:  # whatever it is, the command must not wait for ever
        say({"failed": f"{type(error).__name__}: {error}"})
        return
    finally:
        telling.cancel()
    say({"result": recorder.to_data()})


async def _tell(sender: Sender) -> None:
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        told = {"under_way": sender.under_way, "done": sender.done, "failed": sender.failed}
        say({"progress": told | {"first_token": sender.recorder.times["first_token"].to_data()}})


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main() -> int:
    """Serve standard input until it ends."""
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    told = json.loads(await reader.readline())
    try:
        worker = Worker(Job.model_validate(told["job"]), told["worker"])
    except BadLoad as error:
        say({"failed": str(error)})
        return process.MISCONFIGURED
    say({"ready": True})
    try:
        while line := await reader.readline():
            worker.hear(json.loads(line))
    finally:
        await worker.close()
    return process.STOPPED


if __name__ == "__main__":
    process.begin("WARNING")
    sys.exit(process.run(main()))
