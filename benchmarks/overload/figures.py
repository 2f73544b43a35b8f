"""What became of requests, and the figures of many."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import report


@dataclass(slots=True)
class Ask:
    """One request, and what became of it. Times are seconds."""

    caller: str
    due: float
    first_s: float | None = None
    took_s: float | None = None
    failure: str = ""
    told_s: float | None = None
    again: "Ask | None" = None  # the same, when it came again

    @property
    def good(self) -> bool:
        return self.took_s is not None


def row(part: str, load: float, asks: Sequence[Ask], seconds: float) -> dict[str, Any]:
    """Return the figures of one part."""
    retries = [ask.again for ask in asks if ask.again is not None]
    good = [ask for ask in (*asks, *retries) if ask.good]
    first = [ask.first_s for ask in good if ask.first_s is not None]
    told = [ask.told_s for ask in asks if ask.told_s is not None]
    reasons = [ask.failure for ask in (*asks, *retries) if ask.failure]
    late = [ask for ask in asks if ask.failure and ask.told_s is None]
    return {
        "part": part,
        "load": load,
        "asked_per_s": len(asks) / seconds,
        "goodput_per_s": len(good) / seconds,
        "first_p50_s": report.percentile(first, 0.5) if first else None,
        "first_p99_s": report.percentile(first, 0.99) if first else None,
        "refused": len(told) / len(asks),
        "failed": len(late) / len(asks),
        "reasons": ", ".join(f"{reason} {many}" for reason, many in Counter(reasons).most_common()),
        "told_p50_s": report.median(told) if told else None,
        "told_p99_s": report.percentile(told, 0.99) if told else None,
        "retries": len(retries),
        "retried_well": sum(ask.good for ask in retries) / len(retries) if retries else None,
    }


def shares(asks: Sequence[Ask]) -> dict[str, Any]:
    """Return what the modest callers got of their fair shares of all that was answered, the least and the median, and
    the greedy one."""
    asked, got = Counter(ask.caller for ask in asks), Counter(ask.caller for ask in asks if ask.good)
    fair = fair_shares(asked, got.total())
    modest = [got[name] / fair[name] for name in asked if name != "greedy"]
    return {
        "least_of_fair": round(min(modest), 3),
        "median_of_fair": round(report.median(modest), 3),
        "greedy_of_fair": round(got["greedy"] / fair["greedy"], 3),
    }


def fair_shares(rates: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Share a capacity out: nobody gets more than it asks for, and who asks for more gets as much as others do."""
    fair: dict[str, float] = {}
    left = capacity
    for at, name in enumerate(sorted(rates, key=lambda name: rates[name])):
        fair[name] = min(rates[name], left / (len(rates) - at))
        left -= fair[name]
    return fair


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the targets beside what was measured."""
    steady = {each["load"]: each for each in rows if each["part"] == "steady"}
    if not steady:
        return {}
    peak = max(each["goodput_per_s"] for each in steady.values())
    calm = steady.get(0.9)
    return {
        "goodput_of_peak": {load: round(each["goodput_per_s"] / peak, 3) for load, each in steady.items()},
        "first_p99_of_that_at_0.9": {
            load: round(each["first_p99_s"] / calm["first_p99_s"], 2) for load, each in steady.items()
        }
        if calm
        else None,
    }
