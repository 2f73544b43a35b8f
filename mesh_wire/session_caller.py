"""The calling end of a session: many requests over one stream, each answer handed straight to its outlet."""

import time
from collections.abc import Callable, Iterator

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Unavailable
from mesh_wire.open_session import Headers, Kept, OpenSession, Pulse, Relay
from mesh_wire.outlets import Outlet
from mesh_wire.resuming import Delivered
from mesh_wire.untraced import UNTRACED, Untraced
from mesh_wire.wire_options import SESSION_AGE_S


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
        headers: Callable[[], Headers] = lambda: (),
        *,
        age_s: float = SESSION_AGE_S,
    ) -> None:
        """`headers` gives the metadata with which each session is opened; it gets requests for `age_s` seconds."""
        self._stub = InferenceServiceStub(channel)
        self._headers = headers
        self._age_s = age_s
        self._session: OpenSession | None = None
        self._retired: list[OpenSession] = []
        self.closed = False

    async def ask(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str = "",
        relay: Relay | None = None,
        *,
        trace: Untraced = UNTRACED,
        ticket: str = "",
        delivered: Delivered | None = None,
    ) -> None:
        """Have one request answered into `outlet`. Cancelling the call cancels the request there.

        Args:
            relay: is told of the first event and of the last, before the outlet gets them.
            trace: what the request is a part of.
            ticket: permission to ask for this one request; see `tickets`.
            delivered: takes note of all that the outlet is given, so that the answer can go on elsewhere.

        Raises:
            MeshError: as the server ended the request; UNAVAILABLE EXPERT_LOST when the session broke, with what broke
                it, where that is known, as the cause.
        """
        if self._session is not None and time.monotonic() >= self._session.old_at:
            self.renew()
        if self._session is None or self._session.broken:
            self._session = self._opened()
        await self._session.ask(request, outlet, deadline, caller, trace, relay, ticket, delivered or Delivered())

    def keep(self, traceparent: str, stream_id: int = 0) -> None:
        """Have a trace kept by the server, though its request went there by another way."""
        assert not stream_id, "that is known to its session alone"
        self._tell(Kept(traceparent))

    def _tell(self, kept: Kept) -> None:
        """Give word in the session that there is, or in a new one: that in which the request was asked is over."""
        if self._session is not None and self._session.tell(kept):
            return
        if not self.closed:
            self._session = self._opened()
            self._session.tell(kept)

    def _opened(self) -> OpenSession:
        return OpenSession(self._stub, self._headers(), time.monotonic() + self._age_s, self._tell)

    def renew(self) -> None:
        """Open another session for the next request. Those under way stay in theirs, which ends with the last."""
        if self._session is not None:
            self._session.retire()
            self._retired = [one for one in (*self._retired, self._session) if not one.over]
            self._session = None

    def pulse(self) -> Pulse | None:
        """Return how the requests under way fare; None where there are none."""
        pulses = [pulse for session in self._open() if (pulse := session.pulse()) is not None]
        if not pulses:
            return None
        return Pulse(
            max(pulse.heard_at for pulse in pulses),
            max((pulse.stepped_at for pulse in pulses if pulse.stepped_at is not None), default=None),
            min((pulse.asked_at for pulse in pulses if pulse.asked_at is not None), default=None),
        )

    def abandon(self, error: Unavailable) -> None:
        """End every request under way with an error, each told how many tokens it had, and ask anew next time."""
        for session in self._open():
            session.abandon(error)
        self.renew()

    def _open(self) -> Iterator["OpenSession"]:
        yield from self._retired
        if self._session is not None:
            yield self._session

    async def close(self) -> None:
        """End the session and with it every request in it."""
        self.closed = True
        for session in self._retired:
            await session.close()
        if self._session is not None:
            await self._session.close()
