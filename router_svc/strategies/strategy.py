"""What every routing strategy is: a batch of prompts in, scores over experts out."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

CONTROLS = ("pinned", "random", "round_robin")
FITTED = ("cascade", "lexical", "encoder", "few_shot", "clusters")  # these need an artefact
STRATEGIES = (*FITTED, *CONTROLS)


class Strategy(Protocol):
    """Scores prompts. Holds no request state; `scores` may run in a thread, one call at a time."""

    @property
    def name(self) -> str:
        """The strategy's name in `mesh.yaml` and in a route's reason."""

    @property
    def experts(self) -> tuple[str, ...]:
        """What the columns of the scores stand for. A fitted strategy names the domains of its corpus, which may
        be other experts than the fleet serves: see `fold`."""

    @property
    def generation(self) -> str:
        """Which artefact decides: its id, or a control's settings. Equal generations give equal scores."""

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Score a batch.

        Args:
            prompts: any texts, empty and meaningless ones included; none is refused.

        Returns:
            Probabilities in [0, 1], shape (prompts, experts); each row sums to 1. A prompt has the same row in any
            batch.
        """


@runtime_checkable
class Fitted(Protocol):
    """A strategy that came from an artefact."""

    @property
    def created(self) -> str:
        """When the artefact was made, in ISO 8601; empty where nobody knows."""


def fold(
    scores: NDArray[np.float32], experts: Sequence[str], *, serve: Sequence[str], generalist: str
) -> NDArray[np.float32]:
    """Turn scores over a corpus's domains into scores over the experts that a fleet serves.

    What no served expert answers is the generalist's, so its probability goes there.

    Args:
        scores: shape (prompts, len(experts)); rows sum to 1.
        experts: what the columns stand for.
        serve: the experts of the fleet, `generalist` among them.
        generalist: who answers what nobody is special in.

    Returns:
        Shape (prompts, len(serve)), columns in the order of `serve`; rows sum to 1. A served expert that the
        scores do not know gets 0.

    Raises:
        ValueError: the generalist is not served, or an expert is served twice.
    """
    column = {expert: place for place, expert in enumerate(serve)}
    if generalist not in column:
        raise ValueError(f"the generalist {generalist!r} is not among the served experts: {', '.join(serve)}")
    if len(column) != len(serve):
        raise ValueError(f"an expert is named twice: {', '.join(serve)}")
    folded = np.zeros((len(scores), len(serve)), dtype=np.float32)
    for place, expert in enumerate(experts):
        folded[:, column.get(expert, column[generalist])] += scores[:, place]
    return folded
