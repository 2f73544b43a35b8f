"""An answer as it arrives."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

import grpc

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateResponse, RouteChosen
from expertmesh_client.call_span import CallSpan
from expertmesh_client.calls import Call
from mesh_wire.errors import Foreign, MeshError

Event = RouteChosen | Delta | Finished


class AsyncAnswer:
    """One answer. Iterating gives its text in pieces, `events()` gives all that the mesh says.

    The call begins with the first step of the iteration and can be iterated once. It is cancelled when the loop is
    left, by `close()`, and at the end of an `async with` block; the mesh then stops generating.

    Attributes:
        route: who answers and why; None until it is known, and for ever where an expert was asked directly.
        text: the answer so far.
        finished: the end of the answer; None until it is there.
    """

    def __init__(self, begin: Callable[[CallSpan], Call], new_span: Callable[[], CallSpan]) -> None:
        self.route: RouteChosen | None = None
        self.finished: Finished | None = None
        self._begin = begin
        self._new_span = new_span
        self._pieces: list[str] = []
        self._call: Call | None = None
        self._span: CallSpan | None = None
        self._closed = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def trace_id(self) -> str:
        """The trace of this answer, as 32 hexadecimal digits; empty before the call begins and where nothing traces."""
        return self._span.trace_id if self._span else ""

    def __aiter__(self) -> AsyncIterator[str]:
        return self._texts()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield route, deltas and end as they come.

        Raises:
            MeshError: the answer failed.
        """
        if self._closed:
            raise _was_closed()
        if self._call is not None:
            raise RuntimeError("an answer is iterated once; `text` has what came")
        span = self._span = self._new_span()
        call = self._call = self._begin(span)
        left: BaseException | None = None
        waiting = True  # for the call, rather than for our reader
        try:
            async with aclosing(call.responses()) as responses:
                async for response in responses:
                    if (event := self._note(response, span)) is not None:
                        waiting = False
                        yield event
                        waiting = True
        except BaseException as error:  # the loop was left, or the task was cancelled
            left = error
            if waiting and self._closed and isinstance(error, asyncio.CancelledError):  # no: the call was, by `close`
                raise _was_closed() from None
            raise
        finally:
            call.cancel()
            span.end(left)
            del left  # its traceback has this frame: a cycle

    async def read(self) -> str:
        """Read to the end; returns the whole text."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.text

    async def close(self) -> None:
        """End the call, wherever it stands. Harmless after its end."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _texts(self) -> AsyncGenerator[str, None]:
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    def _note(self, response: GenerateResponse, span: CallSpan) -> Event | None:
        match response.WhichOneof("event"):
            case "route":
                self.route = response.route
                span.routed(response.route)
                return response.route
            case "delta":
                self._pieces.append(response.delta.text)
                span.got_text()
                return response.delta
            case "finished":
                self.finished = response.finished
                span.finished(response.finished)
                return response.finished
        return None  # an event of a later version of the contract


def _was_closed() -> MeshError:
    return Foreign("the answer was closed", status=grpc.StatusCode.CANCELLED)
