"""Who may write next: a bound on the writes that are under way at once."""

import asyncio

# The event loop gives every ready writer its turn before whoever reads from upstream. With a thousand ready writers the
# reader would come round once in a thousand writes, tokens would queue where they cannot merge, and answers would fall
# ever further behind; with 64, it reads in between, and what arrives for a stream that waits for its turn merges.
WRITES_AT_ONCE = 64
# A write that takes longer waits for its reader, not for the processor: its turn is over.
LONGEST_TURN_S = 0.02


class Turns:
    """Turns for writers, first come first served. A slow reader holds up nobody for longer than `longest_s` seconds."""

    def __init__(self, at_once: int = WRITES_AT_ONCE, longest_s: float = LONGEST_TURN_S) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._longest_s = longest_s

    async def take(self) -> "Turn":
        """Wait for a turn; whoever takes it gives it back."""
        await self._free.acquire()
        return Turn(self._free, self._longest_s)


class Turn:
    """One write's turn."""

    __slots__ = ("_free", "_held", "_over")

    def __init__(self, free: asyncio.Semaphore, longest_s: float) -> None:
        self._free = free
        self._held = True
        self._over = asyncio.get_running_loop().call_later(longest_s, self._release)

    def give_back(self) -> None:
        """End the turn, unless its time was over before."""
        self._over.cancel()
        self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._free.release()
