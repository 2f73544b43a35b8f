"""`InferenceService`, as a router and an expert alike serve it: one request is one task, whichever way it came.

What differs between the two is how a request is answered: their `Answers`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, GenerateResponse
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse
from expertmesh.v1.inference_pb2_grpc import InferenceServiceServicer
from mesh_wire.answering import SERVICE, Answering, Answers, Gate
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import MeshError
from mesh_wire.open_session import SESSION_NAME
from mesh_wire.outlets import StreamOutlet
from mesh_wire.session_outbox import SessionOutbox
from mesh_wire.sessions import Session
from mesh_wire.tail import KEPT_HEADER
from mesh_wire.telemetry import Telemetry
from mesh_wire.trace_context import NOBODY, Verdict, caller_of

TICKET = "expertmesh-ticket"  # the metadata that carries a ticket

__all__ = ["SERVICE", "Answers", "InferenceServicer", "headers_of"]


class InferenceServicer(InferenceServiceServicer):
    """Speaks `InferenceService` for one `Answers`."""

    def __init__(self, answers: Answers, telemetry: Telemetry, gate: Gate | None = None) -> None:
        self._answering = Answering(answers, telemetry, gate)
        self._telemetry = telemetry
        self._sessions: set[Session] = set()
        self._calls = 0

    @property
    def running(self) -> int:
        """Requests being answered."""
        return self._answering.running

    @property
    def answered(self) -> int:
        """Requests that have ended, one way or another."""
        return self._answering.answered

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._answering.draining

    async def drain(self) -> None:
        """Refuse new requests; return when the running ones have ended and their callers have taken the ends."""
        self._answering.draining = True
        while self.running or self._calls:
            if not self.running:
                for session in self._sessions:
                    session.outbox.close()
            self._answering.ended.clear()
            await self._answering.ended.wait()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Count a call for as long as the block runs."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._answering.ended.set()

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[GenerateRequest, GenerateResponse]
    ) -> AsyncGenerator[GenerateResponse, None]:
        outlet = StreamOutlet()
        parent, ticket, verdict = NOBODY, "", None
        if self._telemetry.enabled or self._answering.gate is not None:
            headers = headers_of(context)
            ticket = headers.get(TICKET, "")
            verdict = Verdict() if self._telemetry.tail is not None else None
            parent = caller_of(headers.get("traceparent", ""), headers.get("tracestate", ""), verdict)
        task = asyncio.create_task(
            self._answering.answer(
                request, outlet, Deadline.after(context.time_remaining()), "", parent, "Generate", ticket
            )
        )
        task.add_done_callback(lambda _: outlet.close())
        with self._call():
            try:
                async with aclosing(outlet.messages()) as messages:
                    async for message in messages:
                        yield message
                await task
                if verdict is not None and verdict.kept:
                    context.set_trailing_metadata(((KEPT_HEADER, "1"),))
            finally:
                await _ended(task)
                self._count_merges(outlet)

    async def Session(
        self,
        requests: AsyncIterator[SessionRequest],
        context: grpc.aio.ServicerContext[SessionRequest, SessionResponse],
    ) -> AsyncGenerator[SessionResponse, None]:
        self._answering.refuse_if_draining()
        headers: dict[str, str] = {}
        if self._answering.gate is not None or self._telemetry.tail is not None:
            headers = headers_of(context)
        session = Session(
            self._answering,
            traced=self._telemetry.enabled,
            ticket=headers.get(TICKET, ""),
            name=headers.get(SESSION_NAME, ""),
        )
        self._sessions.add(session)
        reader = asyncio.create_task(session.read(requests))
        with self._call():
            try:
                async with aclosing(session.outbox.messages()) as messages:
                    async for message in messages:
                        yield message
                        self._count_merges(session.outbox)
                if not self._answering.draining:
                    await reader
            finally:
                self._sessions.discard(session)
                await _ended(reader, *session.tasks)

    def _count_merges(self, outlet: StreamOutlet | SessionOutbox) -> None:
        if outlet.merges:
            self._telemetry.instruments.merged.add(outlet.merges)
            outlet.merges = 0


def headers_of(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """Return a call's metadata that is text."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until their `finally` blocks have run. Their errors have been told already.

    All are cancelled before the first wait: gRPC cancels a handler twice when its caller leaves during a write, and
    the second one ends the waiting.
    """
    for task in tasks:
        task.cancel()
    if under_way := [task for task in tasks if not task.done()]:
        await asyncio.wait(under_way)
    for task in tasks:
        if not task.cancelled() and isinstance(error := task.exception(), MeshError):
            error.alone()
