"""Which requests are worth a trace that the sampler left out: how often, and by what rule. Nothing here does I/O."""

import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

RECENT = 500  # requests of a kind with which another is compared
FEWEST = 100  # before so many, nobody knows what is slow
AGAIN_EVERY = 250  # requests after which the limits are taken anew, by sorting: more often would be dear
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


class Limit:
    """Knows the limit that a hundredth of the recent values exceed."""

    __slots__ = ("_limit", "_recent", "_until")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._limit = float("inf")
        self._until = FEWEST  # values before the limit is taken anew

    def exceeded(self, value: float) -> bool:
        """Whether a value is among the largest hundredth of those before it, to which it is then added."""
        is_large = value > self._limit
        self._recent.append(value)
        self._until -= 1
        if not self._until:
            self._until = AGAIN_EVERY
            ordered = sorted(self._recent)
            self._limit = ordered[int(len(ordered) * (1 - SLOWEST_SHARE))]
        return is_large


class Slowest:
    """Knows the slowest requests of each kind: by their whole time, and by that to the first token."""

    def __init__(self) -> None:
        self._limits: dict[str, tuple[Limit, Limit]] = {}

    def among(self, kind: str, took_s: float, first_token_s: float | None) -> bool:
        """Whether a request is one of the slowest; it is compared with those of its kind that ended before it."""
        limits = self._limits.get(kind)
        if limits is None:
            if len(self._limits) == KINDS_AT_MOST:
                return False
            limits = self._limits[kind] = Limit(), Limit()
        slow = limits[0].exceeded(took_s)
        return (first_token_s is not None and limits[1].exceeded(first_token_s)) or slow


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
