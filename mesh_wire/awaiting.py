"""The requests of which their callers will say whether their traces are kept; see `tail`.

Bounded: of those that have ended, `WAITING` wait for word, `WAITING_S` long. What is beyond is forgotten.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

WAITING = 2000
WAITING_S = 30.0


class Awaiting(Protocol):
    """A request that waits for word."""

    def told(self, traceparent: str) -> None:
        """Be kept, as the caller's span has it now."""

    def forgotten(self) -> None:
        """No word will come."""


class Awaited:
    """Those that wait, by the key that their callers gave them. One that decides itself is none of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._by_key: dict[Hashable, list[Awaiting]] = {}
        self._ended: deque[tuple[float, Hashable, Awaiting]] = deque()  # with the time until which, the oldest first

    @property
    def held(self) -> int:
        """Requests that have ended, and of which something is still held."""
        return len(self._ended)

    def begun(self, key: Hashable, one: Awaiting) -> None:
        with self._lock:
            self._by_key.setdefault(key, []).append(one)

    def told(self, key: Hashable, traceparent: str) -> None:
        """Give word to whoever has this key. Word of others is passed over."""
        for one in tuple(self._by_key.get(key, ())):
            one.told(traceparent)

    def ended(self, key: Hashable, one: Awaiting) -> None:
        """Hold a request that has ended, until word comes or has been waited for."""
        now = self._clock()
        over = []
        with self._lock:
            self._ended.append((now + WAITING_S, key, one))
            while len(self._ended) > WAITING or self._ended[0][0] <= now:
                over.append(self._ended.popleft())
        for _, old_key, old in over:
            self.forget(old_key, old)

    def forget(self, key: Hashable, one: Awaiting) -> None:
        """Let go of a request: it has been kept and has ended, or no word will come."""
        with self._lock:
            if same := self._by_key.get(key):
                same[:] = [other for other in same if other is not one]
                if not same:
                    del self._by_key[key]
        one.forgotten()
