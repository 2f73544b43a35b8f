"""The strategy `clusters`: a prompt goes to the experts of its nearest cluster, as in Expert Router and c-BTM."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.vectoriser import Vectoriser

NO_CLUSTER = -1  # of a prompt without a known word
SUM_TOLERANCE = 1e-3  # how far from 1 a stored distribution may add up


class Clusters:
    """Scores a prompt with the label distribution of the cluster whose centre is nearest.

    That distribution was measured on labelled prompts, so a score is a probability and can be held against a
    threshold; a cluster that was mapped by hand has its expert at 1. A prompt without one known word (digits, emoji,
    another language) belongs to no cluster: its scores are the prior, the mean over the corpus, which is as unsure
    as this strategy can be; under the threshold of a selection it goes to the generalist.

    Source:
        Pichlmeier, Ross, Luckow 2024 (arXiv 2404.15153); Gururangan et al. 2023 (arXiv 2303.14177): balance holds
        while fitting, serving takes the plain nearest centre.
    """

    name = "clusters"

    def __init__(self, artefact: Artefact) -> None:
        """Raises ArtefactError when the artefact is another strategy's, has no mapping, or its parts do not fit."""
        _check(artefact)
        self.experts = artefact.experts
        self.generation = artefact.id
        self.created = artefact.created
        self._vectoriser = Vectoriser(artefact.words, artefact.tensors["word_vectors"])
        self._centres = artefact.tensors["centres"]
        self._half_squares = 0.5 * np.einsum("kc,kc->k", self._centres, self._centres)
        # The prior stands in the last row, which is where NO_CLUSTER, being -1, points.
        self._shares = np.vstack([artefact.tensors["cluster_experts"], artefact.tensors["prior"]])
        self._shares /= self._shares.sum(axis=1, keepdims=True)

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return len(self._centres)

    def nearest(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Return each prompt's nearest centre by Euclidean distance, or NO_CLUSTER; shape (prompts,)."""
        points = self._vectoriser.transform(prompts)
        # |x - c|² / 2 = const - x·c + |c|² / 2. einsum, unlike BLAS, adds up a row the same way in any batch.
        towards = np.einsum("pc,kc->pk", points, self._centres) - self._half_squares
        return np.where(points.any(axis=1), towards.argmax(axis=1), NO_CLUSTER)

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        return self._shares[self.nearest(prompts)]


def _check(artefact: Artefact) -> None:
    """Raise ArtefactError unless the artefact holds what `Clusters` reads, in shapes that fit each other."""
    where = artefact.source
    if artefact.strategy != Clusters.name:
        raise ArtefactError(f"{where}: fitted for strategy {artefact.strategy!r}, not 'clusters'")
    if not artefact.experts:
        raise ArtefactError(f"{where}: its clusters have no experts yet; fit again with --map CLUSTER=EXPERT")
    shapes = {name: tensor.shape for name, tensor in artefact.tensors.items()}
    clusters, components = (*shapes.get("centres", ()), 0, 0)[:2]
    wanted = {
        "word_vectors": (len(artefact.words), components),
        "centres": (clusters, components),
        "cluster_experts": (clusters, len(artefact.experts)),
        "prior": (len(artefact.experts),),
    }
    if shapes != wanted or 0 in (clusters, components, len(artefact.words)):
        raise ArtefactError(f"{where}: tensors of shapes {shapes} where clusters needs {wanted}")
    for name in ("cluster_experts", "prior"):
        shares = artefact.tensors[name]
        if shares.min() < 0 or np.abs(shares.sum(axis=-1) - 1).max() > SUM_TOLERANCE:
            raise ArtefactError(f"{where}: {name} is not a probability distribution")
