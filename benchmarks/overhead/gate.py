"""The gate: rounds against a baseline, hop by hop, and when enough rounds were made. Pure functions.

A shared machine has days on which every hop costs more than the reference says it should, by up to a third, the same
tree before and after. So a hop is judged beside the others of its way: what these became dearer by is taken off. What
all became dearer by together is told and not judged.

A round that is dear or cheap is so for all its hops as well. So each is put beside the others of its own round, which
leaves about half of the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from benchmarks.overhead.baseline import Baseline
from benchmarks.overhead.judging import Change, Verdict, change
from benchmarks.overhead.rounds import ALL, Round, cost, share

FEWEST = 24  # rounds; a moment's disturbance does not decide
OF_ONE_WAY = 1.5  # times the tolerance, where a hop is judged by one way alone


@dataclass(frozen=True)
class Row:
    """One hop of one way."""

    way: str
    hop: str
    cost_was: float
    cost: float
    share_was: float
    share: float
    company: float  # what the other hops of the way became dearer by, as a share; 0: they did not
    change: Change  # beside that, and beside them in each round


def rows_of(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> list[Row]:
    """Compare every hop of every way with what it was."""
    rows = []
    for way, hops in baseline.figures.items():
        for hop, was in hops.items():
            costs = [cost(one, way, hop) for one in rounds]
            shares = [share(one, way, hop) for one in rounds]
            times = others_of(rounds, way, hop, baseline)
            usual = median(times)
            dearer = max(1.0, usual)  # others that became cheaper make nobody dearer
            allowed = tolerance if way == ALL else OF_ONE_WAY * tolerance
            beside = [one * usual / time / dearer for one, time in zip(costs, times, strict=True)]
            judged = change(beside, was.cost, allowed)
            rows.append(Row(way, hop, was.cost, median(costs), was.share, median(shares), dearer - 1, judged))
    return rows


def others_of(rounds: Sequence[Round], way: str, hop: str, baseline: Baseline) -> list[float]:
    """Return how many times their baseline the other hops of a way cost in each round, in the geometric mean."""
    others = {name: was.cost for name, was in baseline.figures[way].items() if name != hop}
    return [geometric_mean(cost(one, way, name) / was for name, was in others.items()) for one in rounds]


def enough(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> bool:
    """Return whether more rounds would only cost time: every hop can be judged."""
    if len(rounds) < FEWEST:
        return False
    return all(row.change.verdict is not Verdict.UNSURE for row in rows_of(rounds, baseline, tolerance))


def outcome(rows: Sequence[Row]) -> Verdict:
    """Return the verdict on all: the worst of them that is sure, else whether something could not be told."""
    found = {row.change.verdict for row in rows}
    return next((one for one in (Verdict.WORSE, Verdict.UNSURE, Verdict.BETTER) if one in found), Verdict.SAME)
