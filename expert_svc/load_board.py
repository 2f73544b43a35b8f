"""Where an engine posts its load and watchers read it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from expertmesh.v1.expert_pb2 import Load

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 10.0  # that a watcher may ask for
HEARTBEAT_S = 1.0  # while there are requests, a watcher hears from us so often, though nothing has changed


class LoadBoard:
    """The newest load report. Posting is cheap and never waits; each watcher sees changes, the newest only."""

    def __init__(self) -> None:
        self._latest = Load()
        self.generated = 0  # tokens, in all
        self._changed = asyncio.Event()

    @property
    def latest(self) -> Load:
        return self._latest

    def post(self, load: Load) -> None:
        if load != self._latest:
            self._latest = load
            self._changed.set()
            self._changed = asyncio.Event()

    async def watch(self, pause_s: float = SHORTEST_PAUSE_S) -> AsyncGenerator[Load, None]:
        """Yield the load at once, then each change, with at least `pause_s` seconds between two.

        While there are requests, silence means that this process is gone or hangs: what has not changed is told again.
        """
        while True:
            changed, seen = self._changed, self._latest
            yield seen
            await asyncio.sleep(pause_s)
            busy = seen.running or seen.waiting
            with suppress(TimeoutError):
                async with asyncio.timeout(max(SHORTEST_PAUSE_S, HEARTBEAT_S - pause_s) if busy else None):
                    await changed.wait()
