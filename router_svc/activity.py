"""What one router process did lately, per expert: routes by reason, and how soon first tokens came."""

import time
from collections import Counter, deque
from collections.abc import Callable
from math import ceil

from expertmesh.v1.generation_pb2 import RouteReason
from expertmesh.v1.router_pb2 import Activity, ReasonCount
from mesh_wire.deadlines import duration

WINDOW_S = 30  # that is looked back on
KEPT = 1000  # first tokens remembered of each expert: enough for a quantile, whatever the load


class Ledger:
    """Counts of the latest seconds. A count costs a look-up; what it means is worked out when somebody asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._routes: deque[tuple[int, Counter[tuple[str, RouteReason]]]] = deque()  # second -> routes in it
        self._first_tokens: dict[str, deque[tuple[float, float]]] = {}  # expert -> (when, seconds that it took)

    @property
    def window_s(self) -> float:
        """How many seconds are looked back on: fewer where the process is younger, at least 1."""
        return min(float(WINDOW_S), max(1.0, self._clock() - self._began))

    def routed(self, expert: str, reason: RouteReason, times: int = 1) -> None:
        """Count routes to an expert."""
        second = int(self._clock())
        if not self._routes or self._routes[-1][0] != second:
            self._forget(second)
            self._routes.append((second, Counter()))
        self._routes[-1][1][expert, reason] += times

    def first_token(self, expert: str, took_s: float) -> None:
        """Note that a request's first token came so long after the request."""
        if (kept := self._first_tokens.get(expert)) is None:
            kept = self._first_tokens[expert] = deque(maxlen=KEPT)
        kept.append((self._clock(), took_s))

    def lately(self, expert: str) -> Activity:
        """Return what the window holds of one expert."""
        now = self._clock()
        self._forget(int(now))
        reasons: Counter[RouteReason] = Counter()
        for _, routes in self._routes:
            for (routed, reason), times in routes.items():
                if routed == expert:
                    reasons[reason] += times
        activity = Activity(
            routes_per_second=reasons.total() / self.window_s,
            reasons=[ReasonCount(reason=reason, routes=times) for reason, times in sorted(reasons.items())],
        )
        took = sorted(took_s for at, took_s in self._first_tokens.get(expert, ()) if at > now - WINDOW_S)
        activity.first_tokens = len(took)
        if took:
            activity.first_token_p50.CopyFrom(duration(_quantile(took, 0.5)))
            activity.first_token_p95.CopyFrom(duration(_quantile(took, 0.95)))
        return activity

    def _forget(self, second: int) -> None:
        while self._routes and self._routes[0][0] <= second - WINDOW_S:
            self._routes.popleft()


def _quantile(rising: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of all are not above."""
    return rising[max(0, ceil(share * len(rising)) - 1)]
