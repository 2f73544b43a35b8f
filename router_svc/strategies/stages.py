"""What of a strategy can be said at once, on the event loop, and what is left to a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.strategy import Strategy

NOBODY = "none"  # decided, where no strategy could: the scores are even
HEAVY = ("encoder", "few_shot")  # strategies that take milliseconds for a prompt


@dataclass(frozen=True, slots=True)
class Draft:
    """What the first stage says of some prompts."""

    scores: NDArray[np.float32]  # (prompts, experts), rows sum to 1
    sure: NDArray[np.bool_]  # (prompts,): nothing needs to be added


@runtime_checkable
class Staged(Protocol):
    """A strategy in two stages. `draft` costs microseconds a prompt, `finish` may take its time."""

    @property
    def name(self) -> str:
        """The strategy's."""

    @property
    def first(self) -> str:
        """The name of who decides where the draft stands: a strategy, or `NOBODY`."""

    @property
    def experts(self) -> tuple[str, ...]:
        """See `Strategy.experts`."""

    @property
    def generation(self) -> str:
        """See `Strategy.generation`."""

    def draft(self, prompts: Sequence[str]) -> Draft:
        """Say what can be said at once."""

    def finish(self, prompts: Sequence[str], drafts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the final scores of prompts whose drafts are unsure; runs in a thread, one call at a time."""


def stages_of(strategy: Strategy) -> Staged:
    """Return a strategy's stages: its own, or all of it in the one that fits its cost."""
    if isinstance(strategy, Staged):
        return strategy
    return _Late(strategy) if strategy.name in HEAVY else _AtOnce(strategy)


def even(prompts: int, experts: int) -> NDArray[np.float32]:
    """Return scores that know nothing, shape (prompts, experts): a selection finds them unsure."""
    return np.full((prompts, experts), 1 / max(1, experts), dtype=np.float32)


class _Whole:
    """A strategy that has one stage."""

    def __init__(self, strategy: Strategy) -> None:
        self.name = strategy.name
        self.experts = strategy.experts
        self.generation = strategy.generation
        self._strategy = strategy

    def finish(self, prompts: Sequence[str], drafts: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._strategy.scores(prompts)


class _AtOnce(_Whole):
    """All of a cheap strategy is its draft."""

    @property
    def first(self) -> str:
        return self.name

    def draft(self, prompts: Sequence[str]) -> Draft:
        return Draft(self._strategy.scores(prompts), np.ones(len(prompts), dtype=np.bool_))


class _Late(_Whole):
    """Of an expensive strategy nothing can be said at once."""

    first = NOBODY

    def draft(self, prompts: Sequence[str]) -> Draft:
        return Draft(even(len(prompts), len(self.experts)), np.zeros(len(prompts), dtype=np.bool_))
