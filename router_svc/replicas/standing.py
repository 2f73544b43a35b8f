"""Is a replica to be asked, and for how much? Decided from how its answers went; nothing here waits.

A replica that fails again and again, or is far slower than its siblings, is left alone for a while, then asked once
more, for one request: that answer decides. One that comes to others is given work little by little.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FAILURES = 3  # in a row, after which a replica is left alone
ALONE_S, LONGEST_ALONE_S = 2.0, 60.0  # how long, at first and at most; twice as long each time
WELL_S = 60.0  # without a failure, after which earlier ones are forgotten
SLOW_TIMES = 5.0  # times the median step of its siblings: far slower
LEAST_STEP_S = 0.02  # steps shorter than that are never called slow: what they differ by is noise
SLOW_START_S = 5.0  # until a new replica gets its whole share


@dataclass(slots=True)
class Standing:
    """How one replica stands. Times are seconds of `time.monotonic`."""

    joined: float = float("-inf")  # since when it serves beside others that had served before
    why: str = ""  # why it is left alone; empty: it is not
    until: float = 0.0  # when it may be tried again
    failures: int = 0  # in a row
    times_alone: int = 0  # in a row
    _failed_at: float = float("-inf")

    def joins(self, now: float, *, gently: bool) -> None:
        """It serves from now on; `gently`: others do its work meanwhile."""
        self.joined = now if gently else float("-inf")

    def answered(self, now: float) -> None:
        """It has answered a request to its end."""
        self.failures = 0
        if self.why:
            self.why = ""
            self.joined = now
        elif now - self._failed_at > WELL_S:
            self.times_alone = 0

    def failed(self, began: float, now: float) -> bool:
        """It has failed a request that began at `began`; returns whether it should be left alone now.

        What breaks ends all requests under way: those that had begun by the last failure do not count again.
        """
        if began <= self._failed_at:
            return False
        self._failed_at = now
        self.failures += 1
        return bool(self.why) or self.failures >= FAILURES

    def leave_alone(self, why: str, now: float) -> float:
        """Let nobody ask it for a while; returns for how many seconds."""
        alone_s = min(LONGEST_ALONE_S, ALONE_S * 2.0 ** min(self.times_alone, 16))
        self.why, self.until, self.failures = why, now + alone_s, 0
        self.times_alone += 1
        return alone_s

    def take_back(self, now: float) -> None:
        """Ask it again, since there is nobody else."""
        if self.why:
            self.why = ""
            self.joins(now, gently=False)

    def may_be_asked(self, outstanding: int, now: float) -> bool:
        """Whether it may get another request, with so many of ours under way there."""
        if not self.why:
            return True
        return now >= self.until and not outstanding

    def places(self, max_running: int, now: float) -> int:
        """Return how many sequences to count on, of as many as it can run."""
        age_s = now - self.joined
        if age_s >= SLOW_START_S or max_running <= 1:
            return max_running
        return max(1, int(max_running * age_s / SLOW_START_S))


def far_slower(step_s: float, siblings_s: Sequence[float]) -> bool:
    """Whether an engine step takes far longer than those of the siblings that serve the same expert, in seconds."""
    if not siblings_s or step_s < LEAST_STEP_S:
        return False
    return step_s > SLOW_TIMES * max(statistics.median(siblings_s), LEAST_STEP_S / SLOW_TIMES)
