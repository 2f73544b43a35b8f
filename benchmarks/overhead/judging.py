"""Whether a figure is worse than it was, as far as the noise of its own rounds lets anybody say so. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

CONFIDENCE = 0.95  # that a median lies in its interval; the tolerance stands before it becomes a failure


class Verdict(Enum):
    SAME = "no worse"
    BETTER = "better"  # by more than the tolerance: time for a new baseline
    WORSE = "WORSE"
    UNSURE = "too noisy to tell"


@dataclass(frozen=True)
class Change:
    """A figure's change, as a share of its baseline: 0.2 means a fifth more."""

    low: float
    middle: float
    high: float
    verdict: Verdict


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return between which of the values the median of what they are drawn from lies, whatever their distribution.

    How many values lie below that median is a binomial variable. With too few values, it may lie anywhere.
    """
    ordered, count = sorted(values), len(values)
    left, below = 0, 0.5**count  # values that may be left out at each end; probability that the median is below those
    while left < count // 2 and below <= (1 - confidence) / 2:
        left += 1
        below += math.comb(count, left) * 0.5**count
    return (ordered[left - 1], ordered[count - left]) if left else (-math.inf, math.inf)


def change(values: Sequence[float], baseline: float, tolerance: float) -> Change:
    """Judge one figure.

    Args:
        values: what each round gave.
        baseline: the figure that they are compared with.
        tolerance: the share of it by which the median may be larger.
    """
    low, high = (bound / baseline - 1 for bound in interval(values))
    if low > tolerance:
        verdict = Verdict.WORSE
    elif high < -tolerance:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.SAME if high <= tolerance else Verdict.UNSURE
    return Change(low, median(values) / baseline - 1, high, verdict)
