"""The serving end of a session: its requests begin, are cancelled, and end, each by itself."""

import asyncio
from collections.abc import AsyncIterator, Hashable

from expertmesh.v1.inference_pb2 import SessionRequest, SessionStart
from mesh_wire.answering import Answering
from mesh_wire.deadlines import Deadline, seconds
from mesh_wire.errors import BadInput, MeshError
from mesh_wire.session_outbox import SessionOutbox, SessionOutlet
from mesh_wire.trace_context import NOBODY, caller_of_start


class Session:
    """The requests of one session."""

    def __init__(self, answering: Answering, *, traced: bool, ticket: str = "", name: str = "") -> None:
        """Args:
            ticket: what the session was opened with.
            name: as its caller calls it in others; empty: not at all.

        Raises:
            MeshError: it may not be opened.
        """
        self.outbox = SessionOutbox()
        self._name: Hashable = name or object()
        self._answering = answering
        self._traced = traced
        self._open: dict[int, tuple[asyncio.Task[None], SessionOutlet]] = {}
        self._highest = 0
        self._loop = asyncio.get_running_loop()
        self._let_in = answering.gate is None or answering.gate.session(ticket)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What runs for the requests under way."""
        return [task for task, _ in self._open.values()]

    async def read(self, requests: AsyncIterator[SessionRequest]) -> None:
        """Begin and cancel requests until the caller has no more, then let the running ones finish."""
        try:
            async for message in requests:
                for start in message.starts:
                    self._start(start)
                for stream_id in message.cancels:
                    self._cancel(stream_id)
                for traceparent in message.kept_traces:
                    self._answering.keep_trace(traceparent, traceparent)
                for kept in message.kept_streams:
                    self._answering.keep_trace((kept.session or self._name, kept.stream_id), kept.traceparent)
            if self._open:
                await asyncio.wait(self.tasks)
        finally:
            self.outbox.close()

    def _start(self, start: SessionStart) -> None:
        stream_id = start.stream_id
        if stream_id <= self._highest:
            self._stop(stream_id)
            refusal = BadInput("stream ids must rise", reason="STREAM_REUSED", field="starts.stream_id")
            self.outbox.failed(stream_id, refusal)
            return
        self._highest = stream_id
        outlet = self.outbox.outlet(stream_id)
        task = self._loop.create_task(self._run(start, outlet))
        self._open[stream_id] = task, outlet
        # Not in the task's own `finally`: one that is cancelled before its first step has none.
        task.add_done_callback(lambda _: self._open.pop(stream_id))

    async def _run(self, start: SessionStart, outlet: SessionOutlet) -> None:
        deadline = Deadline.after(seconds(start.timeout)) if start.HasField("timeout") else Deadline()
        parent = NOBODY
        if self._traced and (traceparent := start.traceparent):
            parent = caller_of_start(traceparent, start.tracestate, (self._name, start.stream_id))
        try:
            await self._answering.answer(
                start.request,
                outlet,
                deadline,
                start.caller,
                parent,
                "Session/start",
                None if self._let_in else start.ticket,
            )
        except MeshError as error:
            self.outbox.failed(start.stream_id, error.alone())

    def _stop(self, stream_id: int) -> bool:
        """Cancel a request; False if it is not under way."""
        if stream_id not in self._open:
            return False
        task, outlet = self._open[stream_id]
        task.cancel()
        outlet.close()
        return True

    def _cancel(self, stream_id: int) -> None:
        if not self._stop(stream_id) and (stream_id > self._highest or stream_id == 0):
            refusal = BadInput("no such stream began", reason="STREAM_UNKNOWN", field="cancels")
            self.outbox.failed(stream_id, refusal)
