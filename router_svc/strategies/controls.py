"""Strategies that do not read the prompt: the controls of an experiment.

Their rows are one-hot, so that a selection with a threshold follows them; they are not calibrated and do not claim
to be.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def _one_hot(columns: NDArray[np.int64], experts: int) -> NDArray[np.float32]:
    """Return rows with a single 1, shape (len(columns), experts)."""
    return np.eye(experts, dtype=np.float32)[columns]


class Pinned:
    """Every prompt goes to the same expert."""

    name = "pinned"

    def __init__(self, experts: Sequence[str], expert: str) -> None:
        """Raises ValueError when `expert` is not among `experts`."""
        if expert not in experts:
            raise ValueError(f"cannot pin to {expert!r}; there are {', '.join(experts)}")
        self.experts = tuple(experts)
        self.generation = f"pinned-{expert}"
        self._column = self.experts.index(expert)

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        return _one_hot(np.full(len(prompts), self._column), len(self.experts))


class Random:
    """Each prompt goes to an expert drawn at random, all being equally likely. Equal seeds draw equal sequences."""

    name = "random"

    def __init__(self, experts: Sequence[str], *, seed: int) -> None:
        self.experts = tuple(experts)
        self.generation = f"random-{seed}"
        self._draw = np.random.default_rng(seed)

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`; here the row depends on what was drawn before, not on the prompt."""
        return _one_hot(self._draw.integers(len(self.experts), size=len(prompts)), len(self.experts))


class RoundRobin:
    """Prompts go to the experts in turn, across batches."""

    name = "round_robin"

    def __init__(self, experts: Sequence[str]) -> None:
        self.experts = tuple(experts)
        self.generation = "round_robin"
        self._served = 0

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`; here the row depends on how many prompts came before, not on the prompt."""
        turns = np.arange(self._served, self._served + len(prompts)) % len(self.experts)
        self._served += len(prompts)
        return _one_hot(turns, len(self.experts))
