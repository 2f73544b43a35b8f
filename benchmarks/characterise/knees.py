"""Where a ladder of loads bends. Pure functions of what was measured on its rungs."""

from collections.abc import Sequence

OF_PEAK = 0.8  # of a rate that a busy machine measures once


def saturates_at(users: Sequence[int], rates: Sequence[float], *, of_peak: float = OF_PEAK) -> int | None:
    """Return the first load that gives `of_peak` of the ladder's highest rate: more users bring little more.

    None where that is the last rung, or there are fewer than two: within the ladder nothing bends.

    Args:
        users: rungs, rising.
        rates: answers or tokens per second on each, at least 0.
    """
    if len(users) < 2 or not max(rates):
        return None
    knee = next(load for load, rate in zip(users, rates, strict=True) if rate >= of_peak * max(rates))
    return None if knee == users[-1] else knee


def carries(users: Sequence[int], times_s: Sequence[float | None], limit_s: float) -> int:
    """Return the heaviest load up to which every rung keeps a time within a limit; 0 where the first does not.

    Args:
        users: rungs, rising.
        times_s: a percentile of a time on each; None, where nothing was answered, keeps no limit.
    """
    heaviest = 0
    for load, time_s in zip(users, times_s, strict=True):
        if time_s is None or time_s > limit_s:
            break
        heaviest = load
    return heaviest
