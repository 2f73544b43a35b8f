"""The gate: rounds against a baseline, hop by hop, and when enough rounds were made. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.overhead.baseline import Baseline
from benchmarks.overhead.judging import Change, Verdict, change
from benchmarks.overhead.rounds import Round, cost, share

FEWEST = 24  # rounds; a moment's disturbance does not decide


@dataclass(frozen=True)
class Row:
    """One hop of one way."""

    way: str
    hop: str
    cost_was: float
    cost: float
    share_was: float
    share: float
    change: Change


def rows_of(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> list[Row]:
    """Compare every hop of every way with what it was."""
    rows = []
    for way, hops in baseline.figures.items():
        for hop, was in hops.items():
            costs = [cost(one, way, hop) for one in rounds]
            shares = [share(one, way, hop) for one in rounds]
            judged = change(costs, was.cost, tolerance)
            rows.append(Row(way, hop, was.cost, median(costs), was.share, median(shares), judged))
    return rows


def enough(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> bool:
    """Return whether more rounds would only cost time: every hop can be judged."""
    if len(rounds) < FEWEST:
        return False
    return all(row.change.verdict is not Verdict.UNSURE for row in rows_of(rounds, baseline, tolerance))


def outcome(rows: Sequence[Row]) -> Verdict:
    """Return the verdict on all: the worst of them that is sure, else whether something could not be told."""
    found = {row.change.verdict for row in rows}
    return next((one for one in (Verdict.WORSE, Verdict.UNSURE, Verdict.BETTER) if one in found), Verdict.SAME)
