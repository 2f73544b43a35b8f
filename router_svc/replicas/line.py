"""The line to one replica: a channel and the session over it, replaced when certificates have changed."""

from collections.abc import Callable

import grpc

from mesh_wire.errors import Unavailable
from mesh_wire.open_session import Headers
from mesh_wire.session_caller import SessionCaller


class Line:
    """Has one channel and one session at a time, and those before them for as long as requests end there."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        headers: Callable[[], Headers],
        reopened: Callable[[], grpc.aio.Channel | None],
    ) -> None:
        """Args:
        headers: say who asks, whenever a session is opened.
        reopened: opens a channel in the place of the last, where that has certificates of yesterday; else None.
        """
        self.channel = channel
        self.session = SessionCaller(channel, headers)
        self._headers = headers
        self._reopened = reopened
        self._left: list[tuple[SessionCaller, grpc.aio.Channel]] = []  # with requests that were under way

    async def reopen(self, *, idle: bool) -> bool:
        """Take another channel where the certificates have changed; returns whether they have.

        Args:
            idle: nothing is under way, so that what was left can be closed.
        """
        if (channel := self._reopened()) is None:
            return False
        self.session.renew()
        self._left.append((self.session, self.channel))
        self.session, self.channel = SessionCaller(channel, self._headers), channel
        if idle:
            left, self._left = self._left, []
            for session, old in left:
                await session.close()
                await old.close()
        return True

    def abandon(self, error: Unavailable) -> None:
        """End every request under way with an error."""
        for session in (self.session, *(left for left, _ in self._left)):
            session.abandon(error)

    async def close(self) -> None:
        for session, channel in (*self._left, (self.session, self.channel)):
            await session.close()
            await channel.close()
