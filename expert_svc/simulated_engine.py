"""An engine without a model, for tests and for scale: real scheduling in real time, and text that can be foretold."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from expert_svc.engine import Chunk, Ended, EngineDied, Milestones
from expert_svc.limits import check_vocabulary, room_for_answer, urgency
from expert_svc.load_board import LoadBoard
from expert_svc.load_meter import SETTLE_EVERY_S, LoadMeter
from expert_svc.simulated_pace import fits_step, step_seconds
from expert_svc.simulated_text import DEFAULT_NEW_TOKENS, Speech, expected_answer, prompt_tokens
from expertmesh.v1.expert_pb2 import DescribeResponse, ServedExpert
from expertmesh.v1.generation_pb2 import GenerateRequest, TokenLogprobs
from mesh_wire.errors import BadInput
from mesh_wire.settings import Simulation

__all__ = ["SimulatedEngine", "Simulation", "expected_answer", "open_simulated_engine"]


@dataclass(eq=False, slots=True, kw_only=True)
class _Request:
    """One request in the engine, and the mailbox between the engine's steps and its reader."""

    speech: Speech
    prompt_tokens: int
    kv_reserved: int  # tokens of room for its whole possible answer
    urgency: int  # the smaller goes first
    queued: float
    kv_held: int = 0  # tokens of room that it has, while it runs
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    mail: asyncio.Event = field(default_factory=asyncio.Event)
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def take(self) -> Chunk:
        """Return all that has gathered since the last time: a reader that falls behind gets fewer, longer chunks."""
        chunk = Chunk(self.text, self.tokens, self.logprobs)
        self.text, self.tokens, self.logprobs = "", [], []
        self.mail.clear()
        return chunk


class SimulatedEngine:
    """Batches continuously, as real engines do: requests join and leave the batch between steps.

    A request waits, the more urgent first, then first come first served, until a slot and KV-cache room for its whole
    possible answer are free; where room is taken as answers grow (`kv_grows`), until there is some for its prompt. The
    step in which it joins reads its prompt; each step gives every running request one token. Made by
    `open_simulated_engine`.
    """

    def __init__(self, serves: Sequence[str], simulation: Simulation) -> None:
        self._simulation = simulation
        self._experts = list(serves)
        self._board = LoadBoard()
        self._meter = LoadMeter(self._board)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._kv_held = 0
        self._generated = 0
        self._work = asyncio.Event()
        self._sound = asyncio.Event()  # cleared while stalled
        self._sound.set()
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def description(self) -> DescribeResponse:
        return DescribeResponse(
            experts=[ServedExpert(name=name) for name in self._experts],
            engine="simulated",
            engine_version="1",
            base_model="simulated",
            dtype="none",
            tensor_parallel_size=1,
            context_length=self._simulation.context_length,
            vocabulary_size=self._simulation.vocabulary_size,
            kv_cache_tokens=self._simulation.kv_capacity_tokens,
            max_running=self._simulation.slots,
        )

    @property
    def board(self) -> LoadBoard:
        return self._board

    @property
    def held(self) -> int:
        """Requests in the engine, running and waiting."""
        return len(self._running) + len(self._waiting)

    async def died(self) -> str:
        return await asyncio.shield(self._death)

    def die(self, why: str = "the simulated engine was told to die") -> None:
        """Die now: running generators raise EngineDied, and so does every later request."""
        if self._death.done():
            return
        self._death.set_result(why)
        for request in (*self._running, *self._waiting):
            request.mail.set()
        self._work.set()

    def stall(self) -> None:
        """Make no step until `resume`."""
        self._sound.clear()

    def resume(self) -> None:
        """Go on after `stall`."""
        self._sound.set()

    async def generate(
        self, request: GenerateRequest, *, expert: str, request_id: str
    ) -> AsyncGenerator[Chunk | Ended, None]:
        """As `Engine.generate`. Temperature and the other ways of drawing change nothing."""
        self._check_alive()
        held = self._admissible(request, expert)
        completion_tokens = len(request.resume.token_ids)
        if held.speech.reason is not None:  # all of it had come before it was cut off, but for the end
            if held.text:
                yield held.take()
            yield _ended(held, completion_tokens)
            return
        self._meter.admit(request_id, held.prompt_tokens)
        self._queue(held)
        self._work.set()
        try:
            while held.speech.reason is None or held.tokens:
                await held.mail.wait()
                self._check_alive()
                self._meter.begin(request_id)
                chunk = held.take()
                completion_tokens += len(chunk.token_ids)
                yield chunk
        finally:
            self._remove(held)
            self._meter.leave(request_id)
        yield _ended(held, completion_tokens)

    async def run(self) -> None:
        """Step while there is work, until dead or cancelled."""
        due: float | None = None  # when the step before should have ended, if the engine was not idle since
        while not self._death.done():
            await self._sound.wait()
            if not self.held:
                self._work.clear()
                await self._work.wait()
                due = None
                continue
            began = time.monotonic()
            step_s, read = self._admit(began)
            # A late step makes the next one shorter, so that the rate holds; what is later than a step is lost.
            due = (began if due is None else max(due, began - step_s)) + step_s
            await asyncio.sleep(max(0.0, due - began))
            if self._sound.is_set() and not self._death.done():
                self._step(time.monotonic() - began, read)

    async def settle(self) -> None:
        """Keep the posted load current, until cancelled."""
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            self._meter.settle()

    def _queue(self, request: _Request) -> None:
        """Let a request wait behind all that are as urgent."""
        at = len(self._waiting)
        while at and self._waiting[at - 1].urgency > request.urgency:
            at -= 1
        self._waiting.insert(at, request)

    def _check_alive(self) -> None:
        if self._death.done():
            raise EngineDied(self._death.result())

    def _admissible(self, request: GenerateRequest, expert: str) -> _Request:
        simulation, sampling = self._simulation, request.sampling
        if sampling.HasField("structured_output"):
            raise BadInput(
                "a simulated engine keeps to no structure",
                reason="STRUCTURE_INVALID",
                field="sampling.structured_output",
            )
        prompt = prompt_tokens(request, simulation.vocabulary_size)
        check_vocabulary(prompt, "token_ids.ids", simulation.vocabulary_size)
        check_vocabulary(sampling.stop_token_ids, "sampling.stop_token_ids", simulation.vocabulary_size)
        room = room_for_answer(len(prompt), sampling.min_new_tokens, simulation.context_length)
        wanted = sampling.max_new_tokens or max(DEFAULT_NEW_TOKENS, sampling.min_new_tokens)
        max_new_tokens = min(wanted, room)
        speech = Speech(
            expert,
            prompt,
            sampling,
            max_new_tokens=max_new_tokens,
            vocabulary_size=simulation.vocabulary_size,
            ends_one_in=simulation.ends_one_in,
        )
        check_vocabulary(request.resume.token_ids, "resume.token_ids", simulation.vocabulary_size)
        try:
            owed = speech.recall(request.resume.token_ids, request.resume.text)
        except ValueError as error:
            raise BadInput(str(error), reason="RESUME_INVALID", field="resume") from None
        return _Request(
            speech=speech,
            text=owed,
            prompt_tokens=len(prompt),
            kv_reserved=min(len(prompt) + max_new_tokens, simulation.kv_capacity_tokens),
            urgency=urgency(request),
            queued=time.monotonic(),
        )

    def _admit(self, now: float) -> tuple[float, int]:
        """Let waiting requests join the batch while they have room; return the seconds that the step will take, and
        the tokens of prompts that it reads."""
        simulation, prefilled = self._simulation, 0
        while self._waiting and len(self._running) < simulation.slots:
            first = self._waiting[0]
            read = first.prompt_tokens + first.speech.said  # it has said something if it had to give its room up
            room = min(read + 1, simulation.kv_capacity_tokens) if simulation.kv_grows else first.kv_reserved
            if self._kv_held + room > simulation.kv_capacity_tokens or not fits_step(simulation, prefilled, read):
                break
            self._waiting.popleft()
            first.scheduled = first.scheduled or now
            self._running.append(first)
            self._hold(first, room)
            prefilled += read
        context = sum(request.prompt_tokens + request.speech.said for request in self._running)
        step_s = step_seconds(simulation, running=len(self._running), context=context, read=prefilled)
        return step_s / simulation.speed, prefilled

    def _grow(self) -> None:
        """Give every running request room for one more token; where there is none, the newest waits again."""
        capacity = self._simulation.kv_capacity_tokens
        while len(self._running) > 1 and self._kv_held + len(self._running) > capacity:
            newest = self._running.pop()
            self._hold(newest, -newest.kv_held)
            self._waiting.appendleft(newest)
        for request in self._running:
            self._hold(request, 1)

    def _hold(self, request: _Request, tokens: int) -> None:
        request.kv_held += tokens
        self._kv_held += tokens

    def _step(self, step_s: float, read: int) -> None:
        """Give every running request its next token."""
        now, stepped = time.monotonic(), list(self._running)
        for request in stepped:
            said = request.speech.next()
            request.first_token = request.first_token or now
            request.last_token = now
            request.text += said.text
            request.tokens.append(said.token)
            if said.logprobs is not None:
                request.logprobs.append(said.logprobs)
            request.mail.set()
            if request.speech.reason is not None:
                self._remove(request)
        if self._simulation.kv_grows:
            self._grow()
        self._generated += len(stepped)
        in_use = sum(request.prompt_tokens + request.speech.said for request in self._running)
        self._meter.step(
            running=len(self._running),
            kv_cache_use=in_use / self._simulation.kv_capacity_tokens,
            tokens=len(stepped),
            step_s=step_s,
            prompt_tokens=read,
        )
        self._fail_as_told()

    def _fail_as_told(self) -> None:
        dies, stalls = self._simulation.dies_after_tokens, self._simulation.stalls_after_tokens
        if dies is not None and self._generated >= dies:
            self.die(f"the simulated engine died after {self._generated} tokens")
        if stalls is not None and self._generated >= stalls:
            self.stall()

    def _remove(self, request: _Request) -> None:
        if request in self._running:
            self._running.remove(request)
            self._hold(request, -request.kv_held)
        elif request in self._waiting:
            self._waiting.remove(request)


def _ended(held: _Request, completion_tokens: int) -> Ended:
    assert held.speech.reason is not None
    return Ended(
        reason=held.speech.reason,
        matched=held.speech.matched,
        prompt_tokens=held.prompt_tokens,
        completion_tokens=completion_tokens,
        milestones=Milestones(
            queued=held.queued,
            scheduled=held.scheduled,
            first_token=held.first_token,
            last_token=held.last_token,
        ),
    )


@asynccontextmanager
async def open_simulated_engine(
    serves: Sequence[str], simulation: Simulation | None = None
) -> AsyncIterator[SimulatedEngine]:
    """Run a simulated engine that serves the experts named `serves`, until the block ends."""
    simulation = simulation or Simulation()
    engine = SimulatedEngine(serves, simulation)
    tasks = [asyncio.create_task(engine.run()), asyncio.create_task(engine.settle())]
    if simulation.dies_after_s is not None:
        why = f"the simulated engine died after {simulation.dies_after_s:g} s"
        asyncio.get_running_loop().call_later(simulation.dies_after_s, engine.die, why)
    try:
        yield engine
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
