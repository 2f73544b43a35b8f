"""What a client needs to go around the router: an exchange of routes with it, and a session to each expert."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from expertmesh_client.routes import RouteCaller
from mesh_wire.open_session import Headers
from mesh_wire.session_caller import SessionCaller
from mesh_wire.untraced import Way

IDLE_S = 60.0  # after which the way to a replica is closed


@dataclass
class _Way:
    """The way to one replica."""

    channel: grpc.aio.Channel
    session: SessionCaller
    under_way: int = 0  # requests
    used_at: float = 0.0  # seconds of `time.monotonic`

    async def close(self) -> None:
        await self.session.close()
        await self.channel.close()


class Ways:
    """The router's exchange and the sessions to experts, of one client."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        open_expert: Callable[[str], grpc.aio.Channel],
        told: Way,
        headers: Callable[[], Headers] = tuple,
    ) -> None:
        """Args:
        told: how the router gets word of what is kept; see `mesh_wire.tail`.
        headers: say to the router, and to nobody else, who asks.
        """
        self.routes = RouteCaller(channel, headers)
        self.told = told
        self.closed = False
        self._open_expert = open_expert
        self._experts: dict[str, _Way] = {}  # by endpoint
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def expert(self, endpoint: str) -> Iterator[SessionCaller]:
        """Give the session to a replica. Those to which no route has led for `IDLE_S` are closed: they may be gone."""
        now = time.monotonic()
        self._close_idle(now - IDLE_S)
        if endpoint not in self._experts:
            channel = self._open_expert(endpoint)
            self._experts[endpoint] = _Way(channel, SessionCaller(channel))
        way = self._experts[endpoint]
        way.under_way += 1
        try:
            yield way.session
        finally:
            way.under_way -= 1
            way.used_at = time.monotonic()

    def _close_idle(self, since: float) -> None:
        idle = [endpoint for endpoint, way in self._experts.items() if not way.under_way and way.used_at <= since]
        for endpoint in idle:
            closing = asyncio.create_task(self._experts.pop(endpoint).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.closed = True
        await self.routes.close()
        for way in self._experts.values():
            await way.close()
        if self._closing:
            await asyncio.wait(self._closing)
