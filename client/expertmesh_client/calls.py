"""The ways in which an answer is asked for: a call of its own, or a place in a session that many share."""

import asyncio
import copy
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, GenerateResponse
from expertmesh_client.moving import Moving, OnceRouted
from expertmesh_client.places import Place, Places
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import DeadlinePassed, Foreign, MeshError, error_of_call
from mesh_wire.tail import KEPT_HEADER
from mesh_wire.untraced import Untraced

# The same for all ways: gRPC follows it for calls that have one answer.
ATTEMPTS = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.1, 1.0, 2
# CANCELLED is what gRPC makes, in a server that shuts down, of calls that still wait to be taken.
WORTH_ANOTHER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class _Pauses:
    """The pauses between the tries of one answer: each longer than the one before, up to a length."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    async def next(self) -> None:
        # About that long, so that those that failed together do not come back together.
        await asyncio.sleep(self._next_s * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
        self._next_s = min(self._next_s * PAUSE_GROWTH, LONGEST_PAUSE_S)


class Call(Protocol):
    """One answer being given."""

    def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        """Yield what comes; once.

        Raises:
            MeshError: the answer failed.
            asyncio.CancelledError: it was cancelled.
        """

    def cancel(self) -> Any:
        """End it, wherever it stands. Harmless after its end."""


class OwnCall:
    """An answer that has a `Generate` call of its own."""

    def __init__(self, call: Any, kept: Callable[[], None] | None = None) -> None:
        """`kept` is told when the server says at the end that it keeps its part of the trace; None: nobody asks."""
        self._call = call
        self._kept = kept
        self.begun = False  # whether anything has come

    async def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        try:
            async for response in self._call:
                self.begun = True
                yield response
            if self._kept is not None and KEPT_HEADER in dict(await self._call.trailing_metadata() or ()):
                self._kept()
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def cancel(self) -> None:
        self._call.cancel()


class OwnCalls:
    """An answer that is asked for again while the server is UNAVAILABLE and nothing has come, and at the next server,
    where there are several, when one is gone.

    gRPC could do the first, but its tries cannot be told apart: a server that never heard that a connection broke would
    take the next try for a copy of the one before.
    """

    def __init__(
        self,
        places: Places,
        request: GenerateRequest,
        timeout_s: float | None,
        metadata: Sequence[tuple[str, str]],
        kept: Callable[[], None] | None = None,
    ) -> None:
        """`kept`: see `OwnCall`."""
        self._places = places
        self._moving = Moving(request, len(places))
        self._deadline = Deadline.after(timeout_s)
        self._metadata = metadata
        self._kept = kept
        self._expert = ""
        self._cancelled = False
        self._place = places.now
        self._call = self._ask(self._place)

    async def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        moving, pauses, attempt = self._moving, _Pauses(), 1
        several = len(self._places) > 1  # else nobody could go on, and what comes need not be noted
        while True:
            try:
                async with aclosing(self._call.responses()) as responses:
                    async for response in responses:
                        if not several or self._is_news(response):
                            yield response
                return
            except MeshError as error:
                if self._places.closed or self._cancelled:
                    raise
                if moving.worth_it(error):
                    moving.move(error, self._expert)
                    self._places.leave(self._place)
                    waits = moving.all_tried
                elif attempt < ATTEMPTS and not self._call.begun and error.code in WORTH_ANOTHER:
                    moving.ask_again()
                    attempt += 1
                    waits = True
                else:
                    raise
            if waits:
                await pauses.next()
            if self._cancelled:
                raise asyncio.CancelledError
            self._place = self._places.now
            self._call = self._ask(self._place)

    def _is_news(self, response: GenerateResponse) -> bool:
        """Note what comes, for whoever may have to go on; False: a second route, which the reader is not told."""
        if response.HasField("delta"):
            self._moving.delivered.add(response.delta.text, response.delta.token_ids)
        elif response.HasField("route"):
            if self._expert:
                return False
            self._expert = response.route.expert
        return True

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()

    def _ask(self, place: Place) -> OwnCall:
        left_s = self._deadline.left_s()
        call = place.inference.Generate(self._moving.request, timeout=left_s, metadata=self._metadata)
        return OwnCall(call, self._kept)


class Gathering(ABC):
    """An answer that gathers here until its reader takes it. It is asked for at once, again while the server is
    UNAVAILABLE and nothing has come, and at the next server, where there are several, when one is gone."""

    def __init__(self, places: Places, request: GenerateRequest, timeout_s: float | None) -> None:
        self._places = places
        self._moving = Moving(request, len(places))
        self._outlet = OnceRouted()
        self._taken = False
        self._asking = asyncio.create_task(self._ask_in_time(Deadline.after(timeout_s)))
        self._asking.add_done_callback(self._over)

    @property
    def _client_closed(self) -> bool:
        return self._places.closed

    @property
    def _request(self) -> GenerateRequest:
        return self._moving.request

    @abstractmethod
    async def _ask_once(self, place: Place, deadline: Deadline) -> None:
        """Ask there, and return when the whole answer is in the outlet. Raises MeshError."""

    @abstractmethod
    def _renew(self, place: Place) -> None:
        """Ask by another stream next time: a server that drains keeps those that it has."""

    @property
    def _begun(self) -> bool:
        return self._taken or self._outlet.tally.first_at is not None

    async def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        async with aclosing(self._outlet.messages()) as messages:
            async for message in messages:
                self._taken = True
                yield message
        await self._asking

    def cancel(self) -> None:
        self._asking.cancel()

    def _over(self, asking: asyncio.Task[None]) -> None:
        if not asking.cancelled():
            asking.exception()  # our reader may have left without a look at it
        self._outlet.close()

    async def _ask_in_time(self, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.left_s()):
                await self._ask(deadline)
        except TimeoutError:
            sent = str(self._outlet.tally.tokens)
            raise DeadlinePassed("the deadline passed", reason="DEADLINE_PASSED", tokens_sent=sent) from None

    async def _ask(self, deadline: Deadline) -> None:
        pauses = _Pauses()
        attempt = 1
        moved = False
        while True:
            if self._client_closed:
                raise Foreign("the client is closed", status=grpc.StatusCode.CANCELLED)
            place = self._places.now
            try:
                await self._ask_once(place, deadline)
                return
            except MeshError as error:
                if not self._client_closed and self._moving.worth_it(error):
                    chosen = self._outlet.chosen
                    self._moving.move(error, "" if chosen is None else chosen.expert)
                    if error.reason == "DRAINING":
                        self._renew(place)
                    self._places.leave(place)
                    if self._moving.all_tried:
                        await pauses.next()
                    continue
                told = _told(error, closed=self._client_closed)
                late = told.reason == "TOKEN_EXPIRED" and not moved  # a new stream may bring a newer token
                worth_another = told.code is grpc.StatusCode.UNAVAILABLE or late
                if attempt == ATTEMPTS or self._begun or not worth_another:
                    raise told from None
            if late or told.reason == "DRAINING":  # a stream stays with its server, a new one finds another
                self._renew(place)
                if not moved:  # that is no failure: nothing is counted, and nobody waits
                    moved = True
                    continue
            await pauses.next()
            self._moving.ask_again()
            attempt += 1


class SharedCall(Gathering):
    """An answer that comes through a session, which others share."""

    def __init__(self, places: Places, request: GenerateRequest, timeout_s: float | None, trace: Untraced) -> None:
        self._trace = trace
        super().__init__(places, request, timeout_s)

    async def _ask_once(self, place: Place, deadline: Deadline) -> None:
        delivered = self._moving.delivered
        await place.sessions.ask(self._request, self._outlet, deadline, trace=self._trace, delivered=delivered)

    def _renew(self, place: Place) -> None:
        place.sessions.renew()


def _told(error: MeshError, *, closed: bool) -> MeshError:
    """Return what broke a session, in place of the news that it broke: as a call of its own would have told it.

    The news stays where the connection was lost in mid-answer: it says how many tokens had come.
    """
    if closed:
        return Foreign("the client was closed", status=grpc.StatusCode.CANCELLED)
    cause = error.__cause__
    if not isinstance(cause, MeshError):
        return error
    begun = error.facts.get("tokens_sent", "0") != "0"
    return error if begun and cause.code is grpc.StatusCode.UNAVAILABLE else copy.copy(cause)
