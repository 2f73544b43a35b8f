"""Does the strategy decide that was meant to? Over the latest prompts that it was asked about."""

from collections import Counter, deque
from collections.abc import Callable
from time import monotonic

from router_svc.classifying.classification import Scored

LATEST = 32  # prompts that are remembered
LEAST = 8  # that say anything
RECENT_S = 60.0  # prompts from longer ago say nothing


class Faring:
    """How a strategy fares. In a cascade, what its first stage is sure of does not ask the second and tells nothing."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._latest: deque[tuple[float, str]] = deque(maxlen=LATEST)

    def note(self, scored: Scored) -> None:
        """Take note of a prompt's scores."""
        if scored.fallback or scored.strategy == scored.intended:
            self._latest.append((self._clock(), scored.fallback))

    def begin_again(self) -> None:
        """Forget: another strategy serves."""
        self._latest.clear()

    @property
    def trouble(self) -> str:
        """Why most of the latest prompts were not decided as they were meant to be; empty while they are."""
        since = self._clock() - RECENT_S
        recent = [fallback for at, fallback in self._latest if at >= since]
        causes = Counter(filter(None, recent))
        if len(recent) < LEAST or 2 * causes.total() <= len(recent):
            return ""
        why = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
        return f"of the latest {len(recent)} prompts that it was asked about, it did not decide {causes.total()}: {why}"
