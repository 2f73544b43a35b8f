"""The calling end of a session: many requests over one stream, each answer handed straight to its outlet."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse, SessionStart
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.errors import MeshError, Unavailable, error_of, error_of_stream
from mesh_wire.outlets import Outlet
from mesh_wire.session_outbox import rows_of
from mesh_wire.telemetry import Telemetry
from mesh_wire.wire_options import SESSION_AGE_S

log = logging.getLogger(__name__)


Headers = Sequence[tuple[str, str]]


class Relay(Protocol):
    """Stands between an answer and its outlet, at the two ends of the answer only: tokens do not pass it."""

    def begin(self) -> None:
        """The first event is there."""

    def end(self, finished: Finished) -> None:
        """The last event is there, and may be changed."""


class SessionCaller:
    """One long-lived `Session` to one server, opened when first needed, and again when it broke or has grown old.

    A stream stays on its connection, though that be the last on a server that others have left; so an old session gets
    no more requests, and ends with its last one. The next goes where the channel leads by now.

    Tokens pass from the stream's reader to the outlets with no task between; a request's own task only waits for
    its end.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        telemetry: Telemetry,
        headers: Callable[[], Headers] = lambda: (),
        *,
        age_s: float = SESSION_AGE_S,
    ) -> None:
        """`headers` gives the metadata with which each session is opened; it gets requests for `age_s` seconds."""
        self._stub = InferenceServiceStub(channel)
        self._telemetry = telemetry
        self._headers = headers
        self._age_s = age_s
        self._session: _OpenSession | None = None
        self._retired: list[_OpenSession] = []
        self.closed = False

    async def ask(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str = "",
        relay: Relay | None = None,
        *,
        trace: Mapping[str, str] | None = None,
        ticket: str = "",
    ) -> None:
        """Have one request answered into `outlet`. Cancelling the call cancels the request there.

        Args:
            relay: is told of the first event and of the last, before the outlet gets them.
            trace: W3C trace context, by header; None means the current span's.
            ticket: permission to ask for this one request; see `tickets`.

        Raises:
            MeshError: as the server ended the request; UNAVAILABLE EXPERT_LOST when the session broke, with what broke
                it, where that is known, as the cause.
        """
        if self._session is not None and time.monotonic() >= self._session.old_at:
            self.renew()
        if self._session is None or self._session.broken:
            self._session = _OpenSession(self._stub, self._headers(), time.monotonic() + self._age_s)
        carried = self._telemetry.carry() if trace is None else trace
        await self._session.ask(request, outlet, deadline, caller, carried, relay, ticket)

    def renew(self) -> None:
        """Open another session for the next request. Those under way stay in theirs, which ends with the last."""
        if self._session is not None:
            self._session.retire()
            self._retired = [one for one in (*self._retired, self._session) if not one.broken]
            self._session = None

    async def close(self) -> None:
        """End the session and with it every request in it."""
        self.closed = True
        for session in self._retired:
            await session.close()
        if self._session is not None:
            await self._session.close()


class _Asking:
    """A request that is under way."""

    __slots__ = ("begun", "delta", "done", "outlet", "relay")

    def __init__(self, outlet: Outlet, done: asyncio.Future[None], relay: Relay | None) -> None:
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


class _OpenSession:
    def __init__(self, stub: InferenceServiceStub, headers: Headers, old_at: float) -> None:
        self.broken = False
        self.old_at = old_at  # seconds of `time.monotonic` from which it gets no more requests
        self._retired = False
        self._asking: dict[int, _Asking] = {}
        self._last_id = 0
        self._starts: list[SessionStart] = []
        self._cancels: list[int] = []
        self._wanted = asyncio.Event()
        self._call: Any = stub.Session(metadata=headers)
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def ask(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str,
        trace: Mapping[str, str],
        relay: Relay | None,
        ticket: str,
    ) -> None:
        self._last_id = stream_id = self._last_id + 1
        left_s = deadline.left_s()
        start = SessionStart(
            stream_id=stream_id,
            request=request,
            timeout=None if left_s is None else duration(left_s),
            traceparent=trace.get("traceparent", ""),
            tracestate=trace.get("tracestate", ""),
            caller=caller,
            ticket=ticket,
        )
        asking = self._asking[stream_id] = _Asking(outlet, asyncio.get_running_loop().create_future(), relay)
        self._starts.append(start)
        self._wanted.set()
        try:
            await asking.done
        finally:
            if self._asking.pop(stream_id, None) is not None and not self.broken:  # left before its end
                self._cancels.append(stream_id)
                self._wanted.set()
            if self._retired:
                self._wanted.set()

    def retire(self) -> None:
        """End the session once its last request has ended."""
        self._retired = True
        self._wanted.set()

    async def close(self) -> None:
        self._break(Unavailable("the session was closed", reason="EXPERT_LOST"))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _write(self) -> None:
        """Send starts and cancels, all that has gathered in each message."""
        try:
            while self._asking or self._cancels or not self._retired:
                await self._wanted.wait()
                self._wanted.clear()
                starts, self._starts = self._starts, []
                cancels, self._cancels = self._cancels, []
                if starts or cancels:
                    await self._call.write(SessionRequest(starts=starts, cancels=cancels))
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
        for routed in message.routes:
            if (one := asking.get(routed.stream_id)) is not None and one.relay is None:
                one.outlet.route(routed.route)  # with a relay, the choice of a router behind us stays its own affair
        if message.HasField("deltas"):
            for stream_id, text, token_ids, logprobs in rows_of(message.deltas):
                one = asking.get(stream_id)
                if one is not None:
                    if not one.begun:
                        one.begin()
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
            told = Unavailable(error.message, reason=error.reason, tokens_sent=str(one.outlet.tally.tokens))
            told.__cause__ = cause
            _resolve(one.done, told)


def _resolve(done: asyncio.Future[None], error: MeshError | None = None) -> None:
    if done.done():  # its request was cancelled in this very step
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
