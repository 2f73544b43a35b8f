"""Which requests are worth a trace that the sampler left out: how often, and by what rule. Nothing here does I/O."""

import heapq
import logging
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

RECENT = 500  # requests of a kind after which it is taken anew what is slow, by those
FEWEST = 100  # before so many, nobody knows
SLOWEST_SHARE = 0.01
KINDS_AT_MOST = 32  # names of requests that are told apart
PER_S, BURST = 10.0, 100.0  # traces kept
_RATIOS = ("traceidratio", "parentbased_traceidratio")
RULES = ("errors", "slowest")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept of that which the sampler leaves out."""

    errors: bool = False
    slowest: bool = False

    def __bool__(self) -> bool:
        return self.errors or self.slowest


def wanted(env: Mapping[str, str] = os.environ) -> Wanted:
    """Read `EXPERTMESH_TRACE_TAIL`: `errors`, `slowest`, both with a comma between, or `off`.

    Without it, both are kept where the sampler keeps a ratio below 1; else there is nothing to be kept, or it was not
    asked for.

    What cannot be read is told in the log, as the SDK does with its own variables, and is as if it were not there.
    """
    said = env.get("EXPERTMESH_TRACE_TAIL", "").strip().lower()
    words = {word.strip() for word in said.split(",")}
    if said and (words == {"off"} or words <= set(RULES)):
        return Wanted(errors="errors" in words, slowest="slowest" in words)
    if said:
        log.warning("EXPERTMESH_TRACE_TAIL is %r: it may be errors, slowest, errors,slowest or off", said)
    return Wanted(True, True) if _ratio(env) < 1 else Wanted()


def _ratio(env: Mapping[str, str]) -> float:
    """Return the ratio that the sampler keeps of new traces; 1 where it is none of those with a ratio."""
    if env.get("OTEL_TRACES_SAMPLER", "").lower() not in _RATIOS:
        return 1.0
    try:
        return float(env.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:  # the SDK then keeps all, and says so
        return 1.0


class Pace:
    """Knows the times that a hundredth of the requests exceed: their whole time, and that to the first token."""

    __slots__ = ("_first_s", "_limit_first_s", "_limit_took_s", "_took_s", "_until")

    def __init__(self) -> None:
        self._took_s = array("d")  # of the requests since the limits were taken; numbers, and no objects that stay
        self._first_s = array("d")
        self._limit_took_s = self._limit_first_s = math.inf
        self._until = FEWEST  # requests after which they are taken anew

    def exceeded(self, took_s: float, first_s: float | None) -> bool:
        """Whether a request is among the slowest hundredth of those before it. `first_s` is None without a token."""
        is_slow = took_s > self._limit_took_s
        self._took_s.append(took_s)
        if first_s is not None:
            is_slow |= first_s > self._limit_first_s
            self._first_s.append(first_s)
        if len(self._took_s) == self._until:
            self._until = RECENT
            self._limit_took_s, self._limit_first_s = _limit(self._took_s), _limit(self._first_s)
            del self._took_s[:], self._first_s[:]
        return is_slow


def _limit(values: Sequence[float]) -> float:
    """Return what a hundredth of the values exceed; of too few, nobody knows."""
    if len(values) < FEWEST:
        return math.inf
    return heapq.nlargest(int(len(values) * SLOWEST_SHARE) + 1, values)[-1]


class Paces(dict[str, Pace]):
    """The pace of each kind of request. Kinds beyond a number have none: of those, none is ever slow."""

    def __missing__(self, kind: str) -> Pace:
        pace = Pace()
        if len(self) < KINDS_AT_MOST:
            self[kind] = pace
        return pace


class Allowance:
    """So many a second, and some at once: where everything fails, not everything is kept."""

    def __init__(self, per_s: float = PER_S, burst: float = BURST) -> None:
        self.refused = 0
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is allowed at `now`, in seconds of a clock that does not go back."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True
