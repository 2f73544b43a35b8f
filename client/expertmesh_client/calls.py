"""The ways in which an answer is asked for: a call of its own, or a place in a session that many share."""

import asyncio
import copy
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import DeadlinePassed, Foreign, MeshError, error_of_call
from mesh_wire.outlets import StreamOutlet
from mesh_wire.session_caller import SessionCaller

# The same for both ways: gRPC follows it for calls, `SharedCall` in sessions.
ATTEMPTS = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.1, 1.0, 2


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

    def __init__(self, call: Any) -> None:
        self._call = call

    async def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        try:
            async for response in self._call:
                yield response
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def cancel(self) -> None:
        self._call.cancel()


class Gathering(ABC):
    """An answer that gathers here until its reader takes it. It is asked for at once, and again while the server is
    UNAVAILABLE and nothing has come."""

    def __init__(self, request: GenerateRequest, timeout_s: float | None) -> None:
        self._request = request
        self._outlet = StreamOutlet()
        self._taken = False
        self._asking = asyncio.create_task(self._ask_in_time(Deadline.after(timeout_s)))
        self._asking.add_done_callback(self._over)

    @property
    @abstractmethod
    def _client_closed(self) -> bool: ...

    @abstractmethod
    async def _ask_once(self, deadline: Deadline) -> None:
        """Ask, and return when the whole answer is in the outlet. Raises MeshError."""

    @abstractmethod
    def _move(self) -> None:
        """Leave a server that drains."""

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
        pause_s = FIRST_PAUSE_S
        attempt = 1
        moved = False
        while True:
            if self._client_closed:
                raise Foreign("the client is closed", status=grpc.StatusCode.CANCELLED)
            try:
                await self._ask_once(deadline)
                return
            except MeshError as error:
                told = _told(error, closed=self._client_closed)
                if attempt == ATTEMPTS or self._begun or told.code is not grpc.StatusCode.UNAVAILABLE:
                    raise told from None
            if told.reason == "DRAINING":  # a stream stays with its server, a new one finds another
                self._move()
                if not moved:  # that is no failure: nothing is counted, and nobody waits
                    moved = True
                    continue
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # against crowds, not for secrecy
            pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
            attempt += 1


class SharedCall(Gathering):
    """An answer that comes through a session, which others share."""

    def __init__(
        self, sessions: SessionCaller, request: GenerateRequest, timeout_s: float | None, trace: Mapping[str, str]
    ) -> None:
        self._sessions = sessions
        self._trace = trace
        super().__init__(request, timeout_s)

    @property
    def _client_closed(self) -> bool:
        return self._sessions.closed

    async def _ask_once(self, deadline: Deadline) -> None:
        await self._sessions.ask(self._request, self._outlet, deadline, trace=self._trace)

    def _move(self) -> None:
        self._sessions.renew()


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
