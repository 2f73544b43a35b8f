"""One open session, as its caller has it: requests out and cancelled, answers handed to their outlets, and its end."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import Any, NamedTuple, Protocol

import grpc

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.deadlines import Deadline, put_s
from mesh_wire.errors import MeshError, Unavailable, error_of, error_of_stream
from mesh_wire.outlets import Bell, Outlet
from mesh_wire.resuming import Delivered
from mesh_wire.session_outbox import rows_of
from mesh_wire.untraced import Untraced

log = logging.getLogger(__name__)

SESSION_NAME = "expertmesh-session"  # metadata: what a session is called in the next one
FAREWELL_S = 1.0  # how long the last word may take when a session is closed

Headers = Sequence[tuple[str, str]]


class Broken(Unavailable):
    """The session itself broke: nobody said so over it."""


class Relay(Protocol):
    """Stands between an answer and its outlet, at the two ends of the answer only: tokens do not pass it."""

    def begin(self) -> None:
        """The first event is there."""

    def end(self, finished: Finished) -> None:
        """The last event is there, and may be changed."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the requests fare that are under way at a server. All times are seconds of `time.monotonic`."""

    heard_at: float  # when the server last said anything to them, or the first of them was sent
    stepped_at: float | None  # when any request that has begun last got more; None: none has begun
    asked_at: float | None  # when the oldest that has not begun was sent; None: all have


class _Asking:
    """A request that is under way."""

    __slots__ = ("add_text", "add_tokens", "asked_at", "begun", "delta", "done", "outlet", "relay")

    def __init__(self, outlet: Outlet, done: asyncio.Future[None], relay: Relay | None, delivered: Delivered) -> None:
        self.asked_at = time.monotonic()
        self.add_text = delivered.add_text
        self.add_tokens = delivered.add_tokens
        self.outlet = outlet
        self.delta = outlet.delta  # bound once: it is called for every token
        self.done = done
        self.relay = relay
        self.begun = relay is None  # whether the relay knows

    def begin(self) -> None:
        self.begun = True
        if self.relay is not None:
            self.relay.begin()

    def finish(self, finished: Finished) -> None:
        if not self.begun:
            self.begin()
        if self.relay is not None:
            self.relay.end(finished)
        self.outlet.finished(finished)
        _resolve(self.done)


class Kept(NamedTuple):
    """Word that a trace is kept; see `tail`."""

    traceparent: str
    session: str = ""  # in which its request was asked
    stream_id: int = 0  # of the request there; 0: it was asked with that `traceparent`


class OpenSession:
    def __init__(
        self, stub: InferenceServiceStub, headers: Headers, old_at: float, told_next: Callable[[Kept], None]
    ) -> None:
        """Args:
        old_at: seconds of `time.monotonic` from which it gets no more requests.
        told_next: has the next session give word, once this one is over.
        """
        self._name = f"{getrandbits(64):016x}"
        self._told_next = told_next
        self.broken = False
        self.old_at = old_at
        self._retired = False
        self._asking: dict[int, _Asking] = {}
        self._last_id = 0
        self._next = SessionRequest()  # what has gathered for the server
        self._told = False  # whether it was to keep any traces
        self._said_all = False  # what gathers now would not be sent
        self._heard_at = self._stepped_at = time.monotonic()
        self._wanted = Bell()
        self._loop = asyncio.get_running_loop()
        self._call: Any = stub.Session(metadata=(*headers, (SESSION_NAME, self._name)))
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def ask(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str,
        trace: Untraced,
        relay: Relay | None,
        ticket: str,
        delivered: Delivered,
    ) -> None:
        self._last_id = stream_id = self._last_id + 1
        start = self._next.starts.add()  # filled in its place: what is made elsewhere is copied here
        start.stream_id = stream_id
        start.request.CopyFrom(request)
        if (left_s := deadline.left_s()) is not None:
            put_s(start.timeout, left_s)
        delivered.way, delivered.stream_id = self, stream_id
        start.traceparent, tracestate = trace.started_at(self, stream_id)
        if tracestate:
            start.tracestate = tracestate
        start.caller = caller
        start.ticket = ticket
        asking = self._asking[stream_id] = _Asking(outlet, self._loop.create_future(), relay, delivered)
        self._wanted.ring()
        try:
            await asking.done
        finally:
            if self._asking.pop(stream_id, None) is not None and not self.broken:  # left before its end
                self._next.cancels.append(stream_id)
                self._wanted.ring()
            if self._retired:
                self._wanted.ring()

    def retire(self) -> None:
        """End the session once its last request has ended."""
        self._retired = True
        self._wanted.ring()

    def keep(self, traceparent: str, stream_id: int = 0) -> None:
        """Have the trace of a request kept that was asked here, though the session be over; see `Way`."""
        kept = Kept(traceparent, self._name, stream_id)
        if not self.tell(kept):
            self._told_next(kept)

    def tell(self, kept: Kept) -> bool:
        """Give word of any request; False where the session is over."""
        if self.broken or self._said_all or self._tasks[0].done():
            return False
        if kept.stream_id:
            session = "" if kept.session == self._name else kept.session
            self._next.kept_streams.add(session=session, stream_id=kept.stream_id, traceparent=kept.traceparent)
        else:
            self._next.kept_traces.append(kept.traceparent)
        self._told = True
        self._wanted.ring()
        return True

    async def close(self) -> None:
        if self._told and not self._asking and not self.broken:  # what was told may be on its way
            self.retire()
            await asyncio.wait(self._tasks, timeout=FAREWELL_S)
        self._break(Unavailable("the session was closed", reason="EXPERT_LOST"))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return all(task.done() for task in self._tasks)

    def pulse(self) -> Pulse | None:
        if not self._asking:
            return None
        asking = self._asking.values()  # in the order in which they were sent: the first is the oldest
        oldest = next(iter(asking)).asked_at
        stepped_at = self._stepped_at if any(one.begun for one in asking) else None
        asked_at = next((one.asked_at for one in asking if not one.begun), None)
        return Pulse(max(self._heard_at, oldest), stepped_at, asked_at)

    def abandon(self, error: Unavailable) -> None:
        if not self.broken:
            self._break(error)
            self._call.cancel()

    async def _write(self) -> None:
        """Send starts and cancels, all that has gathered in each message."""
        try:
            while self._asking or self._next.ListFields() or not self._retired:
                await self._wanted.rung()
                if self._next.ListFields():
                    message, self._next = self._next, SessionRequest()
                    await self._call.write(message)
            self._said_all = True
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader sees the same end, with its status

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._hand_out(message)
            self._break(Unavailable("the expert ended the session", reason="EXPERT_LOST"))
        except grpc.RpcError as error:
            told = error_of_stream(error)
            self._break(Unavailable(f"the connection broke: {told.message}", reason="EXPERT_LOST"), told)
        except Exception as error:  # whatever it is, nobody may wait for a session that is no longer read
            log.exception("a session's answers could not be read")
            self._break(Unavailable(f"the expert sent nonsense: {type(error).__name__}", reason="EXPERT_LOST"))
        finally:
            self._call.cancel()
            self._tasks[0].cancel()

    def _hand_out(self, message: SessionResponse) -> None:
        asking = self._asking
        self._heard_at = time.monotonic()
        for routed in message.routes:
            if (one := asking.get(routed.stream_id)) is not None and one.relay is None:
                one.outlet.route(routed.route)  # with a relay, the choice of a router behind us stays its own affair
        if message.HasField("deltas"):
            self._stepped_at = self._heard_at
            for stream_id, text, token_ids, logprobs in rows_of(message.deltas):
                one = asking.get(stream_id)
                if one is not None:
                    if not one.begun:
                        one.begin()
                    one.add_text(text)
                    one.add_tokens(token_ids)
                    one.delta(text, token_ids, logprobs)
        for ended in message.finished:
            if (one := asking.pop(ended.stream_id, None)) is not None:
                one.finish(ended.finished)
        for failed in message.failed:
            if (one := asking.pop(failed.stream_id, None)) is not None:
                _resolve(one.done, error_of(failed.status))

    def _break(self, error: MeshError, cause: MeshError | None = None) -> None:
        """End every request of this session, each told how many tokens it had."""
        self.broken = True
        asking, self._asking = self._asking, {}
        for one in asking.values():
            told = Broken(error.message, reason=error.reason, tokens_sent=str(one.outlet.tally.tokens))
            told.__cause__ = cause
            _resolve(one.done, told)


def _resolve(done: asyncio.Future[None], error: MeshError | None = None) -> None:
    if done.done():  # its request was cancelled in this very step
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
