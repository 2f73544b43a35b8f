"""What came of the requests of one rung: counts and histograms that workers send and the command adds up."""

from collections import Counter
from typing import Any

from expertmesh_client.load.histogram import Histogram

UNFINISHED = "UNFINISHED"  # not among the errors of the contract
TIMES = ("first_token", "inter_token", "per_token", "largest_gap", "session", "lag", "loop_lag")
COUNTS = ("asked", "answered", "unfinished", "good", "labelled", "right", "prompt_tokens", "output_tokens")
IN_WINDOW = ("window_tokens", "window_answers", "window_good")
SHARES = ("failed", "experts", "replicas", "reasons", "domains")


class Recorder:
    """One rung's account. A request counts where it was meant to begin within the window that is measured; what
    arrived within that window, of whichever request, makes the rates.

    Attributes:
        times: histogram by what it is of, see TIMES. `inter_token` has each token after the first, with the time since
            the delivery before, shared where one delivery brought several; `per_token` is its mean, by request;
            `largest_gap` the longest pause between two deliveries, by request.
        counts: see COUNTS and IN_WINDOW.
        shares: counters by name, see SHARES; `domains` by `label>expert`.
        first_token_by_expert: the time to first token again, by who answered.
        window_s: seconds measured.
        loop_s, cpu_s, wall_s: processor time of the event loop's thread and of the whole process, and the time in which
            it was used; of the busiest process once merged, except `cpu_s`, which adds up.
        errors: one example of what was said, by reason.
    """

    def __init__(self) -> None:
        self.times = {name: Histogram() for name in TIMES}
        self.counts = dict.fromkeys((*COUNTS, *IN_WINDOW), 0)
        self.shares: dict[str, Counter[str]] = {name: Counter() for name in SHARES}
        self.first_token_by_expert: dict[str, Histogram] = {}
        self.errors: dict[str, str] = {}
        self.window_s = 0.0
        self.loop_share = 0.0
        self.cpu_cores = 0.0
        self.interrupted = False

    def merge(self, other: "Recorder") -> None:
        """Add what another worker counted in the same rung."""
        for name, histogram in other.times.items():
            self.times[name].merge(histogram)
        for name, count in other.counts.items():
            self.counts[name] += count
        for name, counter in other.shares.items():
            self.shares[name].update(counter)
        for name, histogram in other.first_token_by_expert.items():
            self.first_token_by_expert.setdefault(name, Histogram()).merge(histogram)
        self.errors = other.errors | self.errors
        self.window_s = max(self.window_s, other.window_s)
        self.loop_share = max(self.loop_share, other.loop_share)
        self.cpu_cores += other.cpu_cores
        self.interrupted |= other.interrupted

    def to_data(self) -> dict[str, Any]:
        return {
            "times": {name: histogram.to_data() for name, histogram in self.times.items()},
            "counts": self.counts,
            "shares": self.shares,
            "first_token_by_expert": {name: each.to_data() for name, each in self.first_token_by_expert.items()},
            "errors": self.errors,
            "window_s": self.window_s,
            "loop_share": self.loop_share,
            "cpu_cores": self.cpu_cores,
            "interrupted": self.interrupted,
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Recorder":
        made = cls()
        made.times = {name: Histogram.from_data(each) for name, each in data["times"].items()}
        made.counts = dict(data["counts"])
        made.shares = {name: Counter(each) for name, each in data["shares"].items()}
        by_expert = data["first_token_by_expert"].items()
        made.first_token_by_expert = {name: Histogram.from_data(each) for name, each in by_expert}
        made.errors = dict(data["errors"])
        made.window_s, made.interrupted = data["window_s"], data["interrupted"]
        made.loop_share, made.cpu_cores = data["loop_share"], data["cpu_cores"]
        return made
