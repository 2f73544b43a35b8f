"""Prompts in a plane: where a strategy sees them, flattened to the two directions in which they differ most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router_svc.evaluation.verdict import BATCH, Progress, Trial
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.cascade import TINY, parts_of
from router_svc.strategies.vectoriser import Vectoriser

MOST = 1500  # prompts shown; more hide one another

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """A trial's prompts, seen flat."""

    space: str  # what was flattened, in words
    points: NDArray[np.float64]  # (shown, 2)
    kept: tuple[float, float]  # share of the variance along each axis, in [0, 1]
    shown: NDArray[np.int64]  # (shown,): which prompts of the trial


def plane(trial: Trial, folder: Path, *, most: int = MOST, progress: Progress) -> Plane | None:
    """Flatten what a strategy sees of its prompts; None for a control, which sees nothing.

    `encoder`, `few_shot` and `cascade` see sentence vectors, `clusters` the space of its centres. `lexical` has no
    such space, only its verdict: the logarithms of its scores.

    Args:
        trial: of the strategy.
        folder: of its artefact.
        most: prompts shown; of more, every so-manieth.
        progress: told how far it is.

    Raises:
        ArtefactError: the artefact cannot be read any more.
    """
    shown = np.arange(0, len(trial.labelled), max(1, -(-len(trial.labelled) // most)))
    if trial.strategy.name == "lexical":
        logs = np.log(np.maximum(trial.scores[shown], TINY, dtype=np.float64))
        return Plane("logarithms of the scores", *flatten(logs), shown)
    found = _space(trial.strategy.name, folder)
    if found is None:
        return None
    space, vectors = found
    texts = [trial.labelled[at].prompt for at in shown.tolist()]
    rows = []
    for at in range(0, len(texts), BATCH):
        progress(f"{trial.strategy.name}: map", at, len(texts))
        rows.append(vectors(texts[at : at + BATCH]))
    return Plane(space, *flatten(np.concatenate(rows)), shown)


def flatten(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return principal components 1 and 2, shape (rows, 2), and the share of the variance that each keeps.

    Source:
        Pearson 1901, principal component analysis, by way of a singular value decomposition.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    points, shares = np.zeros((len(vectors), 2)), [0.0, 0.0]
    total = float(np.square(strengths).sum())
    for axis in range(min(2, len(strengths))):
        column = left[:, axis] * strengths[axis]
        # A component's sign is arbitrary: with the farthest point on the positive side, two runs draw the same map.
        points[:, axis] = column if column[np.abs(column).argmax()] >= 0 else -column
        shares[axis] = float(strengths[axis] ** 2) / total if total else 0.0
    return points, (shares[0], shares[1])


def _space(name: str, folder: Path) -> tuple[str, Vectors] | None:
    """Return what a strategy's space is called, and what places prompts in it."""
    if name == "clusters":
        loaded = artefacts.load(folder)
        return "space of the clusters", Vectoriser(loaded.words, loaded.tensors["word_vectors"]).transform
    if name not in ("encoder", "few_shot", "cascade"):
        return None
    loaded = artefacts.load(folder)
    if name == "cascade":
        loaded = artefacts.load(parts_of(loaded)["encoder"][0])
    from router_svc.strategies.encoder import Encoder  # here, since onnxruntime takes a third of a second to import

    return "sentence vectors", Encoder(loaded).vectors
