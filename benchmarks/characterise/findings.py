"""The paper's findings against what was measured: a verdict and a sentence for each. Pure functions.

The findings are those of the abstract of arXiv 2404.15153v2, and one of v1. What is tested, and by which limit, stands
beside each.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from benchmarks.characterise.knees import carries
from benchmarks.characterise.rows import Row, Series

Verdict = Literal["supported", "not supported", "not testable here"]
OVERHEAD_SHARE = 0.05  # of an answer's time, that routing may add and still be called minimal
MODERATE = range(10, 101)  # users, in finding C
STABLE_TIMES, STABLE_RATE = (
    3.0,
    0.9,
)  # p95 to first token over that of the first moderate rung; rate over the rung before
FIRST_TOKEN_LIMIT_S = {"simulated": 1.0, "real": 10.0}  # at p95, within which a load counts as carried
OWN_STAGES = ("admit", "classify", "select")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one of the paper's findings, in one kind of configurations."""

    letter: str
    claim: str
    kind: str
    verdict: Verdict
    sentence: str
    figure: str

    def told(self) -> dict[str, Any]:
        return asdict(self)


CLAIMS = {
    "A": "The router adds minimal latency overhead.",
    "B": "The configuration of the expert models dominates performance.",
    "C": "High-parameter experts give stable throughput and latency under moderate concurrency.",
    "D": "Smaller experts stay competitive over a wider range of users than tensor-parallel baselines.",
    "E": "Several experts give more throughput than one large model, most of all under many users (v1 of the paper).",
}
FIGURES = {"A": "P1", "B": "P2, P4", "C": "P2, P3", "D": "P3", "E": "P2"}


def findings(series: Sequence[Series], kind: str) -> list[Finding]:
    """Return all findings as far as configurations of one kind tell."""
    ours = [each for each in series if each.configuration.kind == kind]
    tests: dict[str, Callable[[Sequence[Series]], tuple[Verdict, str]]] = {
        "A": _overhead,
        "B": _dominates,
        "C": _stable,
        "D": _wider,
        "E": _throughput,
    }
    return [Finding(letter, CLAIMS[letter], kind, *test(ours), FIGURES[letter]) for letter, test in tests.items()]


def _overhead(series: Sequence[Series]) -> tuple[Verdict, str]:
    """Routed over direct, the medians of whole answers on the same engine, at each load."""
    pairs = [
        (row, other)
        for each in series
        for row in each.routed
        for other in each.direct
        if row.users == other.users and row.session_s["p50"] and other.session_s["p50"]
    ]
    if not pairs:
        return "not testable here", "Nothing was measured both routed and direct."
    ratios = [_p50(row) / _p50(other) for row, other in pairs]
    own_ms = [sum(row.stages_s.get(name, {}).get("p50", 0.0) for name in OWN_STAGES) * 1e3 for row, _ in pairs]
    few, many = pairs[0][0].users, pairs[-1][0].users
    sentence = (
        f"From {few:,} to {many:,} users the median routed answer takes {min(ratios):.2f} to {max(ratios):.2f} times "
        f"as long as one from the expert itself (median of the loads {median(ratios):.2f}); admitting, classifying and "
        f"selecting take {min(own_ms):.1f} to {max(own_ms):.1f} ms at p50. {_first_token(pairs[0])}"
    )
    return ("supported" if median(ratios) <= 1 + OVERHEAD_SHARE else "not supported"), sentence


def _first_token(pair: tuple[Row, Row]) -> str:
    routed, direct = (row.first_token_s["p50"] or 0.0 for row in pair)
    users = pair[0].users
    return f"To the first token it is {_s(routed)} routed and {_s(direct)} direct at {users} user{'s' * (users != 1)}."


def _dominates(series: Sequence[Series]) -> tuple[Verdict, str]:
    """How far configurations lie apart at one load, against how far content and random routing do."""
    compared = [each for each in series if each.configuration.role in ("experts", "baseline")]
    by_key = {each.configuration.key: each for each in series}
    apart: list[tuple[float, int, Row, Row]] = []
    for users in _common(compared):
        rows = sorted(
            (row for each in compared if (row := each.at(users)) is not None and row.tokens_per_s),
            key=lambda row: row.tokens_per_s,
        )
        if len(rows) > 1:
            apart.append((rows[-1].tokens_per_s / rows[0].tokens_per_s, users, rows[-1], rows[0]))
    routing = [
        _apart(row.tokens_per_s, other.tokens_per_s)
        for each in series
        if (pair := by_key.get(each.configuration.compared_with)) is not None
        for row in each.routed
        if (other := pair.at(row.users)) is not None and row.tokens_per_s and other.tokens_per_s
    ]
    if not apart or not routing:
        return "not testable here", "There are not two configurations and a routing control at the same load."
    widest, users, best, worst = max(apart, key=lambda found: found[0])
    sentence = (
        f"At {users} users tokens/s differ {widest:.1f} times between configurations ({_title(series, best)} against "
        f"{_title(series, worst)}), and at most {max(routing):.2f} times between routing by content and at random on "
        f"the same engines."
    )
    return ("supported" if math.log(widest) > 2 * math.log(max(routing)) else "not supported"), sentence


def _stable(series: Sequence[Series]) -> tuple[Verdict, str]:
    """Experts of many parameters from 10 to 100 users: rates do not fall, p95 to first token stays within thrice."""
    large = [each for each in series if each.configuration.large and each.configuration.role == "experts"]
    said, steady = [], []
    for each in large:
        rows = [row for row in each.routed if row.users in MODERATE and row.first_token_s["p95"]]
        if len(rows) < 2:
            continue
        times = [row.first_token_s["p95"] or 0.0 for row in rows]
        grows = min(after.tokens_per_s / before.tokens_per_s for before, after in pairwise(rows))
        steady.append(max(times) <= STABLE_TIMES * times[0] and grows >= STABLE_RATE)
        said.append(
            f"{each.configuration.title}: p95 to first token {_s(times[0])} at {rows[0].users} and {_s(times[-1])} at "
            f"{rows[-1].users} users, tokens/s {rows[0].tokens_per_s:,.0f} and {rows[-1].tokens_per_s:,.0f}"
        )
    if not said:
        return "not testable here", "No expert of many parameters runs here."
    return ("supported" if all(steady) else "not supported"), "; ".join(said) + "."


def _wider(series: Sequence[Series]) -> tuple[Verdict, str]:
    """The heaviest load with a p95 to first token within the limit: small experts against each baseline."""
    small = [each for each in series if each.configuration.role == "experts" and not each.configuration.large]
    baselines = [each for each in series if each.configuration.role == "baseline"]
    if not small or not baselines:
        return "not testable here", "There are not small experts and a tensor-parallel baseline."
    limit_s = FIRST_TOKEN_LIMIT_S[series[0].configuration.kind]
    reach = {each.configuration.title: _carried(each, limit_s) for each in (*small, *baselines)}
    least = min(reach[each.configuration.title] for each in small)
    most = max(reach[each.configuration.title] for each in baselines)
    listed = ", ".join(f"{title} {users:,}" for title, users in reach.items())
    sentence = f"Heaviest load on the ladder with a p95 to first token within {limit_s:g} s, in users: {listed}."
    return ("supported" if least > most else "not supported"), sentence


def _throughput(series: Sequence[Series]) -> tuple[Verdict, str]:
    """Tokens per second of the best experts over the best baseline, at the fewest and at the most users of both."""
    experts = [each for each in series if each.configuration.role == "experts" and not each.configuration.derived]
    baselines = [each for each in series if each.configuration.role == "baseline"]
    shared = sorted(
        {row.users for each in experts for row in each.routed}
        & {row.users for each in baselines for row in each.routed}
    )
    if not shared:
        return "not testable here", "No load was put on both experts and a baseline."

    def best(these: Iterable[Series], users: int) -> float:
        return max(row.tokens_per_s for each in these if (row := each.at(users)) is not None)

    few, many = shared[0], shared[-1]
    at_few, at_many = (best(experts, users) / max(1e-9, best(baselines, users)) for users in (few, many))
    sentence = (
        f"The best experts give {at_few:.1f} times the tokens/s of the best baseline at {few} "
        f"user{'s' * (few != 1)} and {at_many:.1f} times at {many:,}."
    )
    return ("supported" if at_many > 1 and at_many >= at_few else "not supported"), sentence


def _carried(series: Series, limit_s: float) -> int:
    return carries(series.users, [row.first_token_s["p95"] for row in series.routed], limit_s)


def _common(series: Sequence[Series]) -> list[int]:
    return sorted({users for each in series for users in each.users})


def _apart(first: float, second: float) -> float:
    return max(first, second) / min(first, second)


def _title(series: Sequence[Series], row: Row) -> str:
    return next(each.configuration.title for each in series if each.configuration.key == row.configuration)


def _p50(row: Row) -> float:
    return row.session_s["p50"] or 0.0


def _s(value_s: float) -> str:
    return f"{value_s * 1e3:,.0f} ms" if value_s < 1 else f"{value_s:.1f} s"
