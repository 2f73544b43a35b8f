"""The routers that a client may ask, and which of them it asks now."""

from collections.abc import Callable, Sequence

import grpc

from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from expertmesh_client.ways import Ways
from mesh_wire.errors import Foreign, MeshError
from mesh_wire.open_session import Broken, Headers
from mesh_wire.session_caller import SessionCaller

# With these gRPC ends the calls of a server that dies, or shuts down.
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_LISTS = ("ipv4:", "ipv6:")  # gRPC's own targets that may have commas in them


class Place:
    """One router, or an expert, and the connection to it."""

    def __init__(
        self,
        target: str,
        channel: grpc.aio.Channel,
        open_expert: Callable[[str], grpc.aio.Channel] | None,
        headers: Callable[[], Headers],
    ) -> None:
        """Args:
        open_expert: opens the way around the router; None: there is none.
        headers: say who asks.
        """
        self.target = target
        self.inference = InferenceServiceStub(channel)
        self.router = RouterServiceStub(channel)
        self.sessions = SessionCaller(channel, headers)
        self.ways = Ways(channel, open_expert, self.sessions, headers) if open_expert else None
        self._channel = channel

    async def close(self) -> None:
        if self.ways is not None:
            await self.ways.close()
        await self.sessions.close()
        await self._channel.close()


class Places:
    """All that a client may ask, in its order of preference: the next one is asked when one is gone."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = list(places)
        self._at = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._places)

    @property
    def now(self) -> Place:
        """The one to ask."""
        return self._places[self._at]

    def leave(self, place: Place) -> None:
        """Ask the next one from now on, unless another request has found out already."""
        if place is self.now:
            self._at = (self._at + 1) % len(self._places)

    async def close(self) -> None:
        self.closed = True
        for place in self._places:
            await place.close()


def targets_of(target: str | Sequence[str]) -> list[str]:
    """Return the targets of a list, or of a text in which commas stand between them."""
    if not isinstance(target, str):
        return list(target)
    if target.startswith(_LISTS):
        return [target]
    return [one.strip() for one in target.split(",") if one.strip()] or [target]


def is_gone(error: MeshError) -> bool:
    """Whether an error says that the server asked is gone, or going, as opposed to what it had to say."""
    return (
        isinstance(error, Broken)
        or (isinstance(error, Foreign) and error.code in _GONE)
        or (error.reason == "DRAINING")
    )
