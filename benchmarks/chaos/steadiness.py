"""Whether a process's memory stays where it is, over an hour. Pure.

The slope is Theil's and Sen's: of the medians of each minute, the median slope between any two. A few minutes that are
far off, such as those of a burst, and the ups and downs between two garbage collections do not move it.
"""

from collections.abc import Sequence
from itertools import combinations

from benchmarks.report import median

WARM_UP = 0.25  # of a life: caches, pools and the largest crowd so far
MOST_MB_PER_H = 1.0
FEWEST_MINUTES = 20  # after that: over less, a page here and there is a slope
MINUTE_S, HOUR_S = 60.0, 3600.0

Life = Sequence[tuple[float, float]]  # seconds, MB


def slope_mb_per_h(life: Life) -> tuple[float | None, int]:
    """Return the slope of a process's memory after its warm-up, None where there is none, and over how many minutes."""
    minutes = minutes_of(life)
    slopes = [(later - sooner) / (at - since) for (since, sooner), (at, later) in combinations(minutes, 2)]
    return (HOUR_S * median(slopes) if slopes else None), len(minutes)


def minutes_of(life: Life) -> list[tuple[float, float]]:
    """Return the median of each whole minute after the warm-up, with its beginning in seconds."""
    if not life:
        return []
    began, ended = life[0][0], life[-1][0]
    warm = began + WARM_UP * (ended - began)
    minutes: dict[int, list[float]] = {}
    for at, mb in life:
        if at >= warm:
            minutes.setdefault(int((at - warm) // MINUTE_S), []).append(mb)
    whole = int((ended - warm) // MINUTE_S)
    return [(MINUTE_S * number, median(found)) for number, found in minutes.items() if number < whole]


def judged(name: str, life: Life) -> tuple[bool | None, str]:
    """Judge one process, and put it into words; None: it did not live long enough."""
    slope, minutes = slope_mb_per_h(life)
    if slope is None:
        return None, f"memory of {name}: too short a life"
    words = f"memory of {name}: {slope:+.2f} MB an hour, at {life[-1][1]:.0f} MB, over {minutes} minutes"
    if minutes < FEWEST_MINUTES:
        return None, f"{words}: too few to judge"
    return slope <= MOST_MB_PER_H, words
