"""One worker's share of one rung: asks when the plan says so, and never waits for an answer where a load would not."""

import asyncio
import time
from contextlib import suppress

from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh_client.load.plan import Ask, Asks, Job, Rung, open_loop, user_begins_s, user_chance, users_of
from expertmesh_client.load.reading import Reading, Window
from expertmesh_client.load.recorder import UNFINISHED, Recorder
from expertmesh_client.load.ways import Way
from mesh_wire.errors import MeshError

AFTER_FAILURE_S = 0.1  # a user's pause after a failure, unless the answer says how long
HEARTBEAT_S = 0.01
DEADLINE_GRACE_S = 1.0  # for the server to tell that a deadline passed, before it is taken as told


class Sender:
    """Acts on one rung. What an open loop asks is drawn when it is made, so that nothing delays it later."""

    def __init__(self, job: Job, rung: Rung, asks: Asks, way: Way, worker: int) -> None:
        self.recorder = Recorder()
        self.under_way = 0
        self.done = 0
        self.failed = 0
        self._job, self._rung, self._asks, self._way, self._worker = job, rung, asks, way, worker
        self._planned = [] if rung.users is not None else list(open_loop(job, rung, asks, worker))
        self._zero = 0.0
        self._window = Window(0.0, 0.0)
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[float]] = set()
        self._broken: BaseException | None = None

    def stop(self) -> None:
        """End the rung now: what has been counted stays."""
        self._stopped.set()

    async def run(self, zero: float) -> Recorder:
        """Put the load on until the rung ends, give answers under way their time, and return the account.

        Args:
            zero: the rung's start on the monotonic clock, the same for all workers.
        """
        rung = self._rung
        self._zero = zero
        self._window = Window(zero + rung.warm_s, zero + rung.all_s)
        loading = asyncio.create_task(self._load())
        stopped = asyncio.create_task(self._stopped.wait())
        watching = [asyncio.create_task(self._heartbeat()), asyncio.create_task(self._meter())]
        until = self._window.ends + rung.drain_s
        try:
            await asyncio.wait(
                {loading, stopped}, timeout=until - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
            )
            self.recorder.interrupted = self._stopped.is_set()
            if self.recorder.interrupted:
                self._window.ends = min(self._window.ends, time.monotonic())
        finally:
            tasks = [loading, stopped, *self._tasks, *watching]
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in (self._broken, *ends):
            if isinstance(end, Exception):  # ours: a target's failure is counted, not raised
                raise end
        self.recorder.window_s = max(0.0, self._window.ends - self._window.begins)
        return self.recorder

    async def _load(self) -> None:
        await (self._users() if self._rung.users is not None else self._arrivals())

    async def _arrivals(self) -> None:
        """Start every request of an open loop when it is due, whatever became of those before; wait for the rest."""
        for number, (at_s, ask) in enumerate(self._planned):
            due = self._zero + at_s
            await _until(due)
            task = asyncio.create_task(self._one(ask, due, number))
            self._tasks.add(task)
            task.add_done_callback(self._over)
        await _until(self._window.ends)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: "asyncio.Task[float]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._stopped.set()

    async def _users(self) -> None:
        users = users_of(self._job, self._rung, self._worker)
        await asyncio.gather(*(self._user(user) for user in users))

    async def _user(self, user: int) -> None:
        """Ask, wait for the answer, think, and again, until the rung ends."""
        chance, think = user_chance(self._job, self._rung, user), self._asks.think
        due = self._zero + user_begins_s(self._rung, user)
        while due < self._window.ends:
            ask = self._asks.draw(chance)
            await _until(due)
            pause_s = await self._one(ask, due, user // self._job.processes)
            due = time.monotonic() + max(pause_s, think.draw(chance))

    async def _one(self, ask: Ask, due: float, user: int) -> float:
        """Make one request and count it; returns how long its user should pause."""
        now = time.monotonic()
        reading = Reading(self._job, self.recorder, self._window, due, now, ask.domain)
        if reading.counted:
            self.recorder.times["lag"].record(max(0.0, now - due))
        self.under_way += 1
        timeout_s, failure, said, pause_s = self._job.timeout_s, UNFINISHED, "", 0.0
        try:
            async with asyncio.timeout(None if timeout_s is None else timeout_s + DEADLINE_GRACE_S):
                await self._way.ask(request_of(self._job, ask), reading, user, timeout_s)
            failure = ""
        except MeshError as error:
            failure, said = error.reason, str(error)
            pause_s = AFTER_FAILURE_S if error.retry_after_s is None else error.retry_after_s
        except TimeoutError:
            failure, said, pause_s = (
                "DEADLINE_PASSED",
                "the server let the deadline pass without a word",
                AFTER_FAILURE_S,
            )
        finally:
            self.under_way -= 1
            self.done += not failure
            self.failed += bool(failure and failure != UNFINISHED)
            reading.end(failure, said)
        return pause_s

    async def _heartbeat(self) -> None:
        """Record how late this event loop is, whether or not anything is to be asked, for as long as answers come."""
        lag, due = self.recorder.times["loop_lag"], self._window.begins
        while True:
            await _until(due)
            now = time.monotonic()
            lag.record_late(max(0.0, now - due), HEARTBEAT_S)
            due = max(due, now) + HEARTBEAT_S

    async def _meter(self) -> None:
        """Measure this process's use of processors within the window."""
        await _until(self._window.begins)
        wall, loop, cpu = time.monotonic(), time.thread_time(), time.process_time()
        with suppress(asyncio.CancelledError):
            await _until(self._window.ends)
        took_s = max(1e-9, time.monotonic() - wall)
        self.recorder.loop_share = (time.thread_time() - loop) / took_s
        self.recorder.cpu_cores = (time.process_time() - cpu) / took_s


async def _until(moment: float) -> None:
    if (left_s := moment - time.monotonic()) > 0:
        await asyncio.sleep(left_s)


def request_of(job: Job, ask: Ask) -> GenerateRequest:
    """Return the message that asks it."""
    sampling = Sampling()
    if ask.output_tokens:
        sampling.max_new_tokens = ask.output_tokens
        if job.exact:
            sampling.min_new_tokens = ask.output_tokens
            sampling.ignore_eos = True
    if job.temperature is not None:
        sampling.temperature = job.temperature
    return GenerateRequest(prompt=ask.text, expert=job.expert, sampling=sampling)
