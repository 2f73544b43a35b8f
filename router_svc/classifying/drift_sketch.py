"""What was routed lately, in a few numbers: no prompt, and nothing of its text."""

import math
from collections.abc import Mapping

from router_svc.classifying.classification import Scored
from router_svc.classifying.drift import BINS, Compared, Profile, bin_of, compared

WINDOW = 2000.0  # prompts: one so long ago counts 1/e of the newest


class Sketch:
    """What was routed lately: two histograms, in which each prompt counts a little less with each that follows."""

    def __init__(self) -> None:
        self._experts: dict[str, float] = {}
        self._margins = [0.0] * BINS
        self._weight = 1.0  # of the next prompt; it rises, instead of all others falling

    def note(self, scores: Mapping[str, float], margin: float) -> None:
        """Add a prompt by its scores, of which there must be some, and their margin in [0, 1]."""
        if self._weight > 1e9:
            self._experts = {expert: sum_ / self._weight for expert, sum_ in self._experts.items()}
            self._margins = [sum_ / self._weight for sum_ in self._margins]
            self._weight = 1.0
        self._weight *= 1 + 1 / WINDOW
        best = max(scores, key=scores.__getitem__)
        self._experts[best] = self._experts.get(best, 0.0) + self._weight
        self._margins[bin_of(margin)] += self._weight

    def profile(self) -> Profile:
        """Return what was noted; shares are 0 where nothing was."""
        in_all = math.fsum(self._margins)
        return Profile(
            {expert: sum_ / in_all for expert, sum_ in self._experts.items()},
            [sum_ / in_all for sum_ in self._margins] if in_all else [0.0] * BINS,
            in_all / self._weight,
        )


class Drifting:
    """Follows the prompts that a strategy decides."""

    def __init__(self, corpus: Profile | None) -> None:
        """Args:
        corpus: what the strategy was fitted on; None: nobody knows.
        """
        self.begin_again(corpus)

    def begin_again(self, corpus: Profile | None) -> None:
        """Another strategy serves, which sees prompts in its own way."""
        self._corpus = corpus
        self._sketch = Sketch()

    def note(self, scored: Scored) -> None:
        """Take note of a prompt that the intended strategy decided."""
        if scored.scores and not scored.fallback and math.isfinite(scored.margin):
            self._sketch.note(scored.scores, scored.margin)

    def compared(self) -> Compared:
        """Compare traffic with the corpus."""
        return compared(self._sketch.profile(), self._corpus)
