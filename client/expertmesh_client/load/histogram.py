"""A histogram of durations: mergeable, and exact to a stated relative error, since buckets grow by a constant factor.

Source:
    Masson, Rim and Lee, DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees, VLDB 2019.
    Their package and HdrHistogram's were not taken: both bring further packages into every client, the latter a newer
    setuptools than vLLM's environment can have, and all that is needed of them is below.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

RELATIVE_ERROR = 0.005  # of every percentile, as long as values are at least LEAST_S
LEAST_S = 1e-6  # what is shorter counts as this long
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_E = 1 / math.log(_GROWTH)  # buckets per factor of e
_MIDDLE = 2 / (_GROWTH + 1)  # of a bucket, times its upper end: equally far from both ends, relatively


class Histogram:
    """Durations in seconds, by bucket. Least, most, mean and count are exact."""

    __slots__ = ("_counts", "count", "least_s", "most_s", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0

    def record(self, value_s: float, count: int = 1) -> None:
        """Count a duration, or so many of the same."""
        if value_s < LEAST_S:
            value_s = LEAST_S
        bucket = math.ceil(math.log(value_s) * _PER_E)
        counts = self._counts
        counts[bucket] = counts.get(bucket, 0) + count
        self.count += count
        self.total_s += value_s * count
        if value_s < self.least_s:
            self.least_s = value_s
        if value_s > self.most_s:
            self.most_s = value_s

    def record_late(self, value_s: float, every_s: float) -> None:
        """Count how late one of a row of regular events was, and those that it kept from happening at all: without
        them a pause of seconds would be one event among hundreds that were in time."""
        while value_s > every_s:
            self.record(value_s)
            value_s -= every_s
        self.record(value_s)

    @property
    def mean_s(self) -> float | None:
        return self.total_s / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """Return the smallest duration that at least `share`, in [0, 1], of all do not exceed; None without any."""
        if not self.count:
            return None
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return min(max(math.pow(_GROWTH, bucket) * _MIDDLE, self.least_s), self.most_s)
        return self.most_s

    def merge(self, other: "Histogram") -> None:
        """Add another's counts: the same as if all had been recorded here."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON's types: buckets and their counts in two lists, least and most."""
        buckets = sorted(self._counts)
        data = {"buckets": buckets, "counts": [self._counts[bucket] for bucket in buckets], "total_s": self.total_s}
        return data | {"least_s": self.least_s if self.count else None, "most_s": self.most_s}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_data` was made from."""
        made = cls()
        made._counts = dict(zip(data["buckets"], data["counts"], strict=True))
        made.count = sum(made._counts.values())
        made.total_s, made.most_s = data["total_s"], data["most_s"]
        made.least_s = math.inf if data["least_s"] is None else data["least_s"]
        return made
