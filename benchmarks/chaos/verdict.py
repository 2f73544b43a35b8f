"""What was seen, judged. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.recorder import FLAWS, GOOD, LEFT
from benchmarks.chaos.steadiness import judged
from benchmarks.report import median, percentile

WATCHED_S = 300.0  # a process that lived so long shows whether its memory grows
GROWS_MB_PER_MIN = 3.0


@dataclass(slots=True)
class Seen:
    """What a run has to show for itself."""

    rows: Sequence[Mapping[str, Any]] = ()  # `callers.Row` of each answer
    open: int = 0  # answers that never ended
    amiss: str = ""  # of places and replicas in the end
    crashes: list[str] = field(default_factory=list)
    memory: list[tuple[str, Sequence[tuple[float, float]]]] = field(default_factory=list)  # process; seconds, MB
    orphans: Sequence[str] = ()  # what was left behind
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the verdict; `good` None: it is told, not judged."""

    good: bool | None
    words: str


def outcomes(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how often there was each flaw, and each failure."""
    found = Counter(row["outcome"] for row in rows)
    flaws = {name: found[name] for name in FLAWS}
    return flaws, {name: count for name, count in found.items() if name not in (GOOD, LEFT, *FLAWS)}


def verdict(seen: Seen, gap_limit_s: float | None = None, *, steady: bool = False) -> list[Line]:
    """Judge a run.

    Args:
        gap_limit_s: what the 99th percentile of the longest gap of each answer may be; None: it is only told.
        steady: nothing was broken, so that memory must stay where it is; see `steadiness`.
    """
    flaws, failures = outcomes(seen.rows)
    good = sum(row["outcome"] == GOOD for row in seen.rows)
    left = sum(row["outcome"] == LEFT for row in seen.rows)
    resumed = [row for row in seen.rows if row["resumed"]]
    failed = sum(failures.values())
    lines = [
        Line(good > 0, f"{good} whole answers, {len(resumed)} of them resumed; {left} callers left"),
        Line(not any(flaws.values()), ", ".join(f"{count} {name}" for name, count in flaws.items())),
        Line(not failed, f"{failed} failed{': ' + _counted(failures) if failures else ''}"),
        Line(not seen.open, f"{seen.open} answers without an end"),
        *_gaps(seen.rows, resumed, gap_limit_s),
        Line(not seen.amiss, seen.amiss or "every place is free again, every replica is known again"),
        Line(not seen.crashes, "; ".join(seen.crashes) or "no process ended by itself"),
        *([Line(*judged(name, life)) for name, life in seen.memory] if steady else _memory(seen.memory)),
        Line(not seen.orphans, f"left behind: {', '.join(seen.orphans) or 'nothing'}"),
    ]
    return [*lines, Line(None, f"the callers' own process was {seen.late_s:.2f} s late at most")]


def passed(lines: Sequence[Line]) -> bool:
    return all(line.good is not False for line in lines)


def _counted(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in sorted(failures.items()))


def _gaps(rows: Sequence[Mapping[str, Any]], resumed: Sequence[Mapping[str, Any]], limit_s: float | None) -> list[Line]:
    gaps = [row["gap_s"] for row in rows if row["outcome"] == GOOD]
    if not gaps:
        return []
    worst = percentile(gaps, 0.99)
    words = f"longest gap of each answer: p50 {median(gaps):.2f} s, p99 {worst:.2f} s, most {max(gaps):.2f} s"
    if resumed:
        cut = [row["gap_s"] for row in resumed]
        worst = percentile(cut, 0.99)
        words += f"; of those resumed: p50 {median(cut):.2f} s, p99 {worst:.2f} s, most {max(cut):.2f} s"
    if limit_s is None:
        return [Line(None, words)]
    return [Line(worst <= limit_s, f"{words}; aimed at: p99 {limit_s:g} s")]


def _memory(lives: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> list[Line]:
    """Judge the memory of each process that lived long enough; the others are told together."""
    grown = [(name, slope) for name, life in lives if (slope := growth(life)) is not None]
    lines = [
        Line(slope <= GROWS_MB_PER_MIN, f"memory of {name}: {slope:+.2f} MB a minute")
        for name, slope in grown
        if slope > GROWS_MB_PER_MIN
    ]
    if grown:
        most = max(slope for _, slope in grown)
        lines.append(Line(None, f"memory of {len(grown)} processes that lived long: {most:+.2f} MB a minute at most"))
    peaks = [max(mb for _, mb in life) for _, life in lives if life]
    if peaks:
        lines.append(Line(None, f"memory of a process: {max(peaks):.0f} MB at most, over {len(peaks)} lives"))
    return lines


def growth(life: Sequence[tuple[float, float]]) -> float | None:
    """Return by how much a process grew, in MB a minute: the slope of the line through the second half of its life.

    In the first half it grows to what the largest crowd that it has met needs. None: it did not live long enough.

    Args:
        life: seconds and MB.
    """
    if not life or life[-1][0] - life[0][0] < WATCHED_S:
        return None
    middle = (life[0][0] + life[-1][0]) / 2
    warm = [(at, mb) for at, mb in life if at >= middle]
    mean_at = sum(at for at, _ in warm) / len(warm)
    mean_mb = sum(mb for _, mb in warm) / len(warm)
    spread = sum((at - mean_at) ** 2 for at, _ in warm)
    return 60 * sum((at - mean_at) * (mb - mean_mb) for at, mb in warm) / spread if spread else None
