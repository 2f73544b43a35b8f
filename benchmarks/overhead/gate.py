"""The gate: rounds against a baseline, hop by hop, and when enough rounds were made. Pure functions.

A shared machine has days on which every hop costs more than the reference says it should, by up to a third, the same
tree before and after. So a hop is judged beside the others of its way: what these became dearer by is taken off. What
all became dearer by together is told and not judged.
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
    change: Change  # beside that


def rows_of(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> list[Row]:
    """Compare every hop of every way with what it was."""
    rows = []
    for way, hops in baseline.figures.items():
        for hop, was in hops.items():
            costs = [cost(one, way, hop) for one in rounds]
            shares = [share(one, way, hop) for one in rounds]
            company = company_of(rounds, way, hop, baseline)
            allowed = tolerance if way == ALL else OF_ONE_WAY * tolerance
            judged = change([one / (1 + company) for one in costs], was.cost, allowed)
            rows.append(Row(way, hop, was.cost, median(costs), was.share, median(shares), company, judged))
    return rows


def company_of(rounds: Sequence[Round], way: str, hop: str, baseline: Baseline) -> float:
    """Return what the other hops of a way became dearer by, in the geometric mean; 0 where they became cheaper."""
    others = {name: was.cost for name, was in baseline.figures[way].items() if name != hop}
    times = [median(cost(one, way, name) for one in rounds) / was for name, was in others.items()]
    return max(0.0, geometric_mean(times) - 1)


def enough(rounds: Sequence[Round], baseline: Baseline, tolerance: float) -> bool:
    """Return whether more rounds would only cost time: every hop can be judged."""
    if len(rounds) < FEWEST:
        return False
    return all(row.change.verdict is not Verdict.UNSURE for row in rows_of(rounds, baseline, tolerance))


def outcome(rows: Sequence[Row]) -> Verdict:
    """Return the verdict on all: the worst of them that is sure, else whether something could not be told."""
    found = {row.change.verdict for row in rows}
    return next((one for one in (Verdict.WORSE, Verdict.UNSURE, Verdict.BETTER) if one in found), Verdict.SAME)
