"""The client for code without an event loop.

It drives an `AsyncClient` on an event loop in a thread of its own, rather than gRPC's blocking channel: the calls,
their spans and errors exist once, and requests that share one stream need that loop anyway.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import aclosing, suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import grpc

from expertmesh.v1.generation_pb2 import Delta, Finished, RouteChosen
from expertmesh.v1.router_pb2 import ListExpertsResponse, RouteResponse
from expertmesh_client.aio import DEFAULT_TARGET, AsyncClient, Over
from expertmesh_client.answer import AsyncAnswer, Event
from expertmesh_client.asking import Message, PrecisionWish, Wishes
from expertmesh_client.loop_thread import LoopThread
from expertmesh_client.places import targets_of
from expertmesh_client.tokens import Token
from mesh_wire.errors import Foreign
from mesh_wire.telemetry import Telemetry
from mesh_wire.tls import ClientTls


class Answer:
    """One answer. Iterating gives its text in pieces, `events()` gives all that the mesh says.

    As `AsyncAnswer`: the call begins with the iteration, and ends when the loop or a `with` block is left.

    Attributes:
        route: who answers and why; None until it is known, and for ever where an expert was asked directly.
        text: the answer so far.
        finished: the end of the answer; None until it is there.
    """

    def __init__(self, answer: AsyncAnswer, loop: LoopThread) -> None:
        self.route: RouteChosen | None = None
        self.finished: Finished | None = None
        self._pieces: list[str] = []
        self._answer = answer
        self._loop = loop

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def trace_id(self) -> str:
        """The trace of this answer, as 32 hexadecimal digits; empty before the call begins and where nothing traces."""
        return self._answer.trace_id

    def __iter__(self) -> Iterator[str]:
        return (event.text for event in self.events() if isinstance(event, Delta) and event.text)

    def events(self) -> Generator[Event, None, None]:
        """Yield route, deltas and end as they come.

        Raises:
            MeshError: the answer failed.
        """
        inbox: SimpleQueue[Event | BaseException | None] = SimpleQueue()  # None ends it
        self._loop.start(_pump(self._answer.events(), inbox))
        try:
            while (event := inbox.get()) is not None:
                match event:
                    case BaseException():
                        raise event
                    case RouteChosen():
                        self.route = event
                    case Delta():
                        self._pieces.append(event.text)
                    case Finished():
                        self.finished = event
                yield event
        finally:
            self.close()

    def read(self) -> str:
        """Read to the end; returns the whole text."""
        for _ in self.events():
            pass
        return self.text

    def close(self) -> None:
        """End the call, wherever it stands. Harmless after its end."""
        if self._loop.alive:
            with suppress(CancelledError):  # another thread closes the client, which ends all calls
                self._loop.run(self._answer.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Asks a router, or an expert directly; the arguments are `AsyncClient`'s. May be shared by threads."""

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        tls: ClientTls | None = None,
        timeout_s: float | None = None,
        telemetry: Telemetry | None = None,
        over: Over = "session",
        direct: bool = False,
        expert_tls: ClientTls | None = None,
        token: Token | None = None,
    ) -> None:
        self.target = ",".join(targets_of(target))
        self._loop = LoopThread()
        try:
            opened = _opened(
                target,
                tls=tls,
                timeout_s=timeout_s,
                telemetry=telemetry,
                over=over,
                direct=direct,
                expert_tls=expert_tls,
                token=token,
            )
            self._client = self._loop.run(opened)
        except BaseException:
            self._loop.end()
            raise

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        if self._loop.alive:
            self._loop.run(self._client.close())
            self._loop.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Message] | None = None,
        token_ids: Iterable[int] | None = None,
        expert: str = "",
        sampling: Wishes | None = None,
        request_id: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask for an answer to one of `prompt`, `messages` and `token_ids`; see `AsyncClient.generate`."""
        asked = self._client.generate(
            prompt,
            messages=messages,
            token_ids=token_ids,
            expert=expert,
            sampling=sampling,
            request_id=request_id,
            conversation=conversation,
            precision=precision,
            timeout_s=timeout_s,
        )
        return Answer(asked, self._loop)

    def chat(
        self,
        messages: Iterable[Message],
        *,
        expert: str = "",
        sampling: Wishes | None = None,
        request_id: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask for the next turn of a conversation, as `generate(messages=...)` does."""
        return self.generate(
            messages=messages,
            expert=expert,
            sampling=sampling,
            request_id=request_id,
            conversation=conversation,
            precision=precision,
            timeout_s=timeout_s,
        )

    def route(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Message] | None = None,
        expert: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> RouteResponse:
        """Ask who would answer, and why, without an answer."""
        asked = self._client.route(
            prompt,
            messages=messages,
            expert=expert,
            conversation=conversation,
            precision=precision,
            timeout_s=timeout_s,
        )
        return self._loop.run(asked)

    def experts(self, *, timeout_s: float | None = None) -> ListExpertsResponse:
        """Ask for the fleet and its load."""
        return self._loop.run(self._client.experts(timeout_s=timeout_s))


async def _opened(target: str | Sequence[str], **options: Any) -> AsyncClient:
    """Open the client on its own loop, to which its channel belongs."""
    return AsyncClient(target, **options)


async def _pump(events: AsyncGenerator[Event, None], inbox: "SimpleQueue[Event | BaseException | None]") -> None:
    """Put events into `inbox`, then None or what ended them. A slow reader's inbox holds at most one answer."""
    try:
        async with aclosing(events):
            async for event in events:
                inbox.put(event)
        inbox.put(None)
    except asyncio.CancelledError:
        inbox.put(Foreign("the client was closed", status=grpc.StatusCode.CANCELLED))
        raise
    except Exception as error:
        inbox.put(error)
