"""Order between classes: the higher goes first, and a small share is the lower's, which would starve otherwise."""

import math
from collections.abc import Iterator

from router_svc.admitting.fair_queue import FairQueue, Stand


class ClassQueue:
    """A fair queue for each class, the first being the highest."""

    def __init__(self, classes: int, share: float) -> None:
        """`share` of what goes is each lower class's while it waits, in [0, 1)."""
        self._queues = [FairQueue() for _ in range(classes)]
        self._owed = [0.0] * classes  # requests that were promised to a class and did not go yet
        self._share = share

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def waiting(self, rank: int) -> int:
        return len(self._queues[rank])

    def put(self, stand: Stand, rank: int) -> None:
        self._queues[rank].put(stand)

    def remove(self, stand: Stand, rank: int) -> None:
        self._queues[rank].remove(stand)

    def heads(self) -> Iterator[tuple[Stand, int]]:
        """Yield the first request of each caller and class, with its rank, in the order in which they would go."""
        ranks = range(len(self._queues))
        for rank in sorted(ranks, key=lambda rank: (self._owed[rank] < 1, rank)):
            for stand in self._queues[rank].heads():
                yield stand, rank

    def go(self, stand: Stand, rank: int) -> None:
        """Let a request that waits go."""
        self._queues[rank].go(stand)
        for lower in range(rank + 1, len(self._queues)):
            if self._queues[lower]:
                self._owed[lower] += self._share
        self._owed[rank] = max(0.0, self._owed[rank] - 1) if self._queues[rank] else 0.0

    def charge(self, stand: Stand, rank: int) -> None:
        """Note that a request goes that did not have to wait."""
        self._queues[rank].charge(stand)

    def settle(self, stand: Stand, rank: int, cost: float) -> None:
        self._queues[rank].settle(stand, cost)

    def ahead(self, stand: Stand, rank: int) -> int:
        """Count the requests that would go before one that joins now, if no more came."""
        own = self._queues[rank].ahead(stand)
        higher = sum(len(queue) for queue in self._queues[:rank])
        if higher and self._share:
            return min(higher + own, math.ceil(own / self._share))
        return higher + own

    def rivalry(self, stand: Stand, rank: int) -> float:
        """Return of how many requests that go one is this caller's, if it has a line."""
        if self._share and any(self._queues[:rank]):
            return self._queues[rank].rivalry(stand) / self._share
        return self._queues[rank].rivalry(stand)
