"""Who may write next: a bound on the writes that are under way at once."""

import asyncio
import time
from collections import deque
from itertools import count

# The event loop gives every ready writer its turn before whoever reads from upstream. With a thousand ready writers the
# reader would come round once in a thousand writes, tokens would queue where they cannot merge, and answers would fall
# ever further behind; with 32, it reads in between, and what arrives for a stream that waits for its turn merges. A
# token costs the same with 16 and with 64, but new calls come in one at a turn of the loop: with 64, of 5,000 streams
# that kept a core full 200 had not begun after half a minute, with 32 none.
WRITES_AT_ONCE = 32
# A write that takes longer waits for its reader, not for the processor: its turn is over.
LONGEST_TURN_S = 0.02


class Turns:
    """Turns for writers, first come first served. A slow reader holds up nobody for longer than about `longest_s`.

    While turns are free, taking one is a few instructions: writers do so for every message.
    """

    def __init__(self, at_once: int = WRITES_AT_ONCE, longest_s: float = LONGEST_TURN_S) -> None:
        self._free = at_once
        self._longest_s = longest_s
        self._names = count()
        self._held: dict[int, float] = {}  # turn -> when it began, oldest first; `time.monotonic`
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._review: asyncio.TimerHandle | None = None  # pending while anybody waits

    async def take(self) -> int:
        """Wait for a turn; returns its name, by which it is given back."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait()
        turn = next(self._names)
        self._held[turn] = time.monotonic()
        return turn

    def give_back(self, turn: int) -> None:
        """End a turn, unless its time was over before."""
        if self._held.pop(turn, None) is not None:
            self._release()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        if self._review is None:
            self._review = loop.call_later(self._longest_s, self._end_long_turns)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it had been given the turn in this very step
                self._release()
            raise

    def _release(self) -> None:
        """Hand a turn to the first that still waits for one."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                return
        self._free += 1

    def _end_long_turns(self) -> None:
        self._review = None
        began_before = time.monotonic() - self._longest_s
        for turn in [turn for turn, began in self._held.items() if began <= began_before]:
            self.give_back(turn)
        if self._waiting:
            self._review = asyncio.get_running_loop().call_later(self._longest_s, self._end_long_turns)
