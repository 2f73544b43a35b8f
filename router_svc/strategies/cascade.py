"""The strategy `cascade`: a cheap strategy decides what it is sure of, and an expensive one is asked about the rest."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.artefact import Artefact, ArtefactError, Json
from router_svc.strategies.stages import Draft
from router_svc.strategies.strategy import Strategy

TINY = 1e-9  # what a probability of zero counts as, before its logarithm is taken


class Cascade:
    """`lexical` where its best score leads by `margin` or more, else the mean of its log-probabilities and those of
    `encoder`.

    Either knows what the other does not, words or meaning, and their mean is right more often than either.

    Source:
        Viola, Jones 2001: a cascade of classifiers that grow dearer. Hinton 2002: products of experts, which a mean
        of logarithms is.
    """

    name = "cascade"

    def __init__(
        self,
        lexical: Strategy,
        encoder: Strategy,
        *,
        margin: float,
        weight: float = 0.5,
        generation: str,
        created: str = "",
    ) -> None:
        """Args:
            lexical: decides at once.
            encoder: is asked where `lexical` is unsure; its experts may stand in another order.
            margin: in [0, 1], between the best score of `lexical` and its second best; a smaller one is unsure.
            weight: of the encoder in the mean, in [0, 1].
            generation: the id of the artefact that joins the two.
            created: when that was made, in ISO 8601.

        Raises:
            ValueError: the two score different experts.
        """
        if set(lexical.experts) != set(encoder.experts):
            raise ValueError(f"lexical scores {', '.join(lexical.experts)}, but encoder {', '.join(encoder.experts)}")
        self.experts = lexical.experts
        self.generation = generation
        self.created = created
        self.first = lexical.name
        self.margin = margin
        self.weight = weight
        self._lexical = lexical
        self._encoder = encoder
        self._columns = [encoder.experts.index(expert) for expert in lexical.experts]

    def draft(self, prompts: Sequence[str]) -> Draft:
        """See `Staged.draft`."""
        scores = self._lexical.scores(prompts)
        return Draft(scores, margins(scores) >= self.margin)

    def finish(self, prompts: Sequence[str], drafts: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Staged.finish`."""
        return mixed([drafts, self._encoder.scores(prompts)[:, self._columns]], [1 - self.weight, self.weight])

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        draft = self.draft(prompts)
        unsure = np.flatnonzero(~draft.sure)
        if not len(unsure):
            return draft.scores
        scores = draft.scores.copy()
        scores[unsure] = self.finish([prompts[at] for at in unsure], draft.scores[unsure])
        return scores


def margins(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each prompt's best score leads, in [0, 1], shape (prompts,); 1 where there is one expert."""
    if scores.shape[1] < 2:
        return np.ones(len(scores), dtype=np.float32)
    two = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0])


def mixed(opinions: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """Return the weighted mean of several log-probabilities as probabilities.

    Args:
        opinions: each of shape (prompts, experts), rows summing to 1.
        weights: one for each opinion; a mean has 1 in all.

    Returns:
        Shape (prompts, experts), rows summing to 1; a row is bit for bit the same in any batch.
    """
    logs = np.zeros(opinions[0].shape)
    for opinion, weight in zip(opinions, weights, strict=True):
        logs += weight * np.log(np.maximum(opinion, TINY, dtype=np.float64))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def parts_of(artefact: Artefact) -> dict[str, tuple[Path, str]]:
    """Return where the two artefacts of a cascade are, and the ids that they must have: name → (folder, id).

    Raises:
        ArtefactError: the artefact is no cascade's.
    """
    where = artefact.source
    if artefact.strategy != Cascade.name:
        raise ArtefactError(f"{where}: fitted for strategy {artefact.strategy!r}, not 'cascade'")
    found: dict[str, tuple[Path, str]] = {}
    for name in ("lexical", "encoder"):
        part = artefact.settings.get(name)
        if not isinstance(part, dict) or not all(isinstance(part.get(key), str) for key in ("folder", "id")):
            raise ArtefactError(f"{where}: does not say where the artefact of {name} is, with folder and id")
        if "\0" in part["folder"]:
            raise ArtefactError(f"{where}: the folder of {name} is not a path")
        found[name] = Path(where) / part["folder"], part["id"]
    return found


def share_of(artefact: Artefact, key: str) -> float:
    """Return a setting in [0, 1]; raises ArtefactError where it is anything else."""
    value: Json | float | None = artefact.settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ArtefactError(f"{artefact.source}: {key} is {value!r}, not a number from 0 to 1")
    return float(value)
