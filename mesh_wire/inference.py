"""`InferenceService`, as a router and an expert alike serve it: one request is one task, whichever way it came.

What differs between the two is how a request is answered: their `Answers`.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from expertmesh.v1.generation_pb2 import GenerateRequest, GenerateResponse
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse, SessionStart
from expertmesh.v1.inference_pb2_grpc import InferenceServiceServicer
from mesh_wire import validation
from mesh_wire.deadlines import Deadline, seconds
from mesh_wire.errors import AlreadyExists, BadInput, DeadlinePassed, Internal, MeshError, Unavailable
from mesh_wire.outlets import Outlet, SessionOutbox, StreamOutlet
from mesh_wire.telemetry import Telemetry, parent_of

log = logging.getLogger(__name__)

SERVICE = "expertmesh.v1.InferenceService"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request beside its content."""

    deadline: Deadline
    caller: str  # empty: not known
    span: Span
    began: float  # seconds of `time.monotonic` at which it arrived


class Answers(Protocol):
    """How a service answers."""

    async def answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        """Put the whole answer into `outlet`, `finished` last.

        `request` is checked and named. Cancelled when the caller leaves; must then free all it holds.

        Raises:
            MeshError: the request ends with it.
        """


class InferenceServicer(InferenceServiceServicer):
    """Speaks `InferenceService` for one `Answers`."""

    def __init__(self, answers: Answers, telemetry: Telemetry) -> None:
        self._answers = answers
        self._telemetry = telemetry
        self._running: set[str] = set()
        self._sessions: set[_Session] = set()
        self._drained: asyncio.Event | None = None  # set to one when draining begins

    @property
    def running(self) -> int:
        """Requests being answered."""
        return len(self._running)

    async def drain(self) -> None:
        """Refuse new requests; return when the running ones have ended and their ends are on their way."""
        self._drained = asyncio.Event()
        if self._running:
            await self._drained.wait()
        for session in self._sessions:
            session.outbox.close()

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[GenerateRequest, GenerateResponse]
    ) -> AsyncGenerator[GenerateResponse, None]:
        outlet = StreamOutlet()
        parent = Context()
        if self._telemetry.enabled:
            headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            parent = parent_of(headers.get("traceparent", ""), headers.get("tracestate", ""))
        task = asyncio.create_task(
            self._answered(request, outlet, Deadline.after(context.time_remaining()), "", parent, "Generate")
        )
        task.add_done_callback(lambda _: outlet.close())
        try:
            async with aclosing(outlet.messages()) as messages:
                async for message in messages:
                    yield message
            await task
        finally:
            await _ended(task)

    async def Session(
        self,
        requests: AsyncIterator[SessionRequest],
        context: grpc.aio.ServicerContext[SessionRequest, SessionResponse],
    ) -> AsyncGenerator[SessionResponse, None]:
        session = _Session(self)
        self._sessions.add(session)
        reader = asyncio.create_task(session.read(requests))
        try:
            async with aclosing(session.outbox.messages()) as messages:
                async for message in messages:
                    yield message
            if self._drained is None:
                await reader
        finally:
            self._sessions.discard(session)
            await _ended(reader)
            await session.end()

    async def _answered(
        self, request: GenerateRequest, outlet: Outlet, deadline: Deadline, caller: str, parent: Context, method: str
    ) -> None:
        """Answer one request; every way that it can fail leaves here as a `MeshError`."""
        began = time.monotonic()
        request_id = request.request_id or uuid.uuid4().hex
        instruments = self._telemetry.instruments
        outcome = "CANCELLED"
        instruments.in_flight.add(1)
        try:
            with self._telemetry.span(
                f"{SERVICE}/{method}",
                SpanKind.SERVER,
                parent=parent,
                attributes={
                    "rpc.system.name": "grpc",
                    "rpc.method": f"{SERVICE}/{method.removesuffix('/start')}",
                    "gen_ai.operation.name": "chat",
                    "expertmesh.request_id": request_id if request_id.isprintable() else "",
                },
            ) as span:
                validation.check(request)
                validation.check_name(caller, "caller")
                if self._drained is not None:
                    raise Unavailable("the server is shutting down", reason="DRAINING", tokens_sent="0")
                if request_id in self._running:
                    raise AlreadyExists(
                        "a request of that id is being answered", reason="REQUEST_ID_IN_USE", field="request_id"
                    )
                self._running.add(request_id)
                try:
                    request.request_id = request_id
                    await self._in_time(request, Asked(deadline, caller, span, began), outlet)
                finally:
                    self._running.discard(request_id)
                    if self._drained is not None and not self._running:
                        self._drained.set()
                span.set_attribute("rpc.response.status_code", "OK")
            outcome = "OK"
        except MeshError as error:
            outcome = error.code.name
            raise
        except Exception:
            outcome = "INTERNAL"
            log.exception("request %s failed", request_id)
            raise Internal("a fault of the server", reason="INTERNAL", request_id=request_id) from None
        finally:
            instruments.in_flight.add(-1)
            self._measure(outlet, began, outcome)

    async def _in_time(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        """Answer within the deadline."""
        left_s = asked.deadline.left_s()
        if left_s is not None and left_s <= 0:
            raise DeadlinePassed("the deadline had passed on arrival", reason="DEADLINE_PASSED", tokens_sent="0")
        try:
            async with asyncio.timeout(left_s):
                await self._answers.answer(request, asked, outlet)
        except TimeoutError:
            raise DeadlinePassed(
                "the answer was not complete in time", reason="DEADLINE_PASSED", tokens_sent=str(outlet.tally.tokens)
            ) from None

    def _measure(self, outlet: Outlet, began: float, outcome: str) -> None:
        tally, instruments = outlet.tally, self._telemetry.instruments
        labels = {"gen_ai.operation.name": "chat", "rpc.response.status_code": outcome}
        instruments.request_duration.record(time.monotonic() - began, labels)
        if tally.first_at is not None and tally.last_at is not None:
            instruments.time_to_first_token.record(tally.first_at - began, labels)
            if tally.tokens > 1:
                instruments.time_per_output_token.record((tally.last_at - tally.first_at) / (tally.tokens - 1), labels)


class _Session:
    """The requests of one session."""

    def __init__(self, servicer: InferenceServicer) -> None:
        self.outbox = SessionOutbox()
        self._servicer = servicer
        self._open: dict[int, asyncio.Task[None]] = {}
        self._highest = 0

    async def read(self, requests: AsyncIterator[SessionRequest]) -> None:
        """Begin and cancel requests until the caller has no more, then let the running ones finish."""
        try:
            async for message in requests:
                for start in message.starts:
                    self._start(start)
                for stream_id in message.cancels:
                    self._cancel(stream_id)
            if self._open:
                await asyncio.wait(self._open.values())
        finally:
            self.outbox.close()

    async def end(self) -> None:
        """Cancel what still runs, and wait until it is gone."""
        await _ended(*self._open.values())

    def _start(self, start: SessionStart) -> None:
        stream_id = start.stream_id
        if stream_id <= self._highest:
            if (task := self._open.pop(stream_id, None)) is not None:
                task.cancel()
                self.outbox.drop(stream_id)
            refusal = BadInput("stream ids must rise", reason="STREAM_REUSED", field="starts.stream_id")
            self.outbox.failed(stream_id, refusal)
            return
        self._highest = stream_id
        task = asyncio.create_task(self._run(start))
        self._open[stream_id] = task

    async def _run(self, start: SessionStart) -> None:
        stream_id = start.stream_id
        deadline = Deadline.after(seconds(start.timeout)) if start.HasField("timeout") else Deadline()
        parent = parent_of(start.traceparent, start.tracestate) if self._servicer._telemetry.enabled else Context()
        outlet = self.outbox.outlet(stream_id)
        try:
            await self._servicer._answered(start.request, outlet, deadline, start.caller, parent, "Session/start")
        except MeshError as error:
            self.outbox.failed(stream_id, error)
        finally:
            if self._open.get(stream_id) is asyncio.current_task():
                del self._open[stream_id]

    def _cancel(self, stream_id: int) -> None:
        if (task := self._open.get(stream_id)) is not None:
            task.cancel()
            self.outbox.drop(stream_id)
        elif stream_id > self._highest or stream_id == 0:
            refusal = BadInput("no such stream began", reason="STREAM_UNKNOWN", field="cancels")
            self.outbox.failed(stream_id, refusal)


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until their `finally` blocks have run. Their errors have been told already."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
