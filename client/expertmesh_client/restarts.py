"""Processes of a mesh that end by themselves are started again, each after a pause that grows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from expertmesh_client.child import Child

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pauses:
    """How long to wait before a process is started again. Times are seconds."""

    first_s: float = 0.5
    longest_s: float = 30.0
    well_after_s: float = 60.0  # one that has served for so long was well: its end is not counted with earlier ones
    loop: int = 5  # so many ends of one that was not well are called a crash loop

    def before(self, ends: int) -> float:
        """Return the pause after so many ends in a row: each twice the one before."""
        return min(self.longest_s, self.first_s * 2.0 ** min(ends - 1, 32))


async def kept_running(
    child: Child,
    start: Callable[[Child], Awaitable[None]],
    becomes_serving: Callable[[Child], Awaitable[None]],
    say: Say,
    pauses: Pauses,
) -> None:
    """Start a process again whenever it ends; runs until it is cancelled.

    Args:
        becomes_serving: returns when it serves; is cancelled when it ends before.
        say: gets a line for each end, for each return, and for a crash loop.
    """
    ends = 0
    while True:
        served_s = await _served_until_its_end(child, becomes_serving, say, again=ends > 0)
        ends = 1 if served_s >= pauses.well_after_s else ends + 1
        pause_s = pauses.before(ends)
        say(f"{child.name} ended: {child.reason}; it is started again in {pause_s:g} s")
        if ends == pauses.loop:
            say(
                f"{child.name} is in a crash loop: it ended {ends} times in a row, each time before it had served for"
                f" {pauses.well_after_s:g} s (log: {child.log})"
            )
        await child.stop()  # ends what it has left behind, such as an engine's own processes
        await asyncio.sleep(pause_s)
        await start(child)


async def _served_until_its_end(
    child: Child, becomes_serving: Callable[[Child], Awaitable[None]], say: Say, *, again: bool
) -> float:
    """Wait for a process's end; returns for how many seconds it has served."""
    since: float | None = None if again else time.monotonic()

    async def noted() -> None:
        nonlocal since
        await becomes_serving(child)
        since = time.monotonic()
        say(f"{child.name} serves again after {child.elapsed_s:.0f} s")

    serving = asyncio.create_task(noted()) if again else None
    try:
        await child.ended()
    finally:
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    return 0.0 if since is None else time.monotonic() - since
