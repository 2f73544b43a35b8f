"""The strategy `few_shot`: a handful of examples for each expert, and a sentence encoder. No corpus, no fitting."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.calibration import softmax

SHARPNESS = 10.0  # an example whose cosine is higher by 0.1 counts exp(1) = 2.7 times as much
FIRMNESS = 2.0  # of the scores: a few examples say more than their votes, measured by `python -m benchmarks.few_shot`


class SentenceEncoder(Protocol):
    """What is needed of an encoder."""

    @property
    def generation(self) -> str:
        """Which artefact it came from."""

    def vectors(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return sentence vectors of unit length, shape (prompts, dimensions)."""


class FewShot:
    """Scores a prompt by how near its sentence vector is to each expert's examples, the nearest counting most.

    Vectors are taken from the middle of all experts first: what all sentences have in common tells nothing. This
    finds more prompts than the nearest mean does: an expert's examples need not be about one thing.

    Source:
        Vinyals et al. 2016, matching networks (arXiv 1606.04080); centred as in Wang et al. 2019, SimpleShot
        (arXiv 1911.04623).
    """

    name = "few_shot"

    def __init__(self, encoder: SentenceEncoder, examples: Mapping[str, Sequence[str]]) -> None:
        """Args:
            encoder: gives the vectors.
            examples: expert → prompts that it should answer, at least one each.

        Raises:
            ValueError: fewer than two experts have examples.
        """
        if len(examples) < 2 or not all(examples.values()):
            raise ValueError("strategy few_shot needs examples: a few prompts for each of two experts or more")
        self.experts = tuple(examples)
        digest = hashlib.sha256(json.dumps({expert: list(texts) for expert, texts in examples.items()}).encode())
        self.generation = f"{encoder.generation}-{digest.hexdigest()[:8]}"
        self.created = getattr(encoder, "created", "")
        self._encoder = encoder
        vectors = [encoder.vectors(list(texts)) for texts in examples.values()]
        self._middle = np.mean([each.mean(axis=0) for each in vectors], axis=0)
        self._examples = _unit(np.concatenate(vectors) - self._middle)
        self._ends = np.cumsum([len(each) for each in vectors])[:-1]

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        # einsum, unlike BLAS, adds up a row the same way in any batch.
        cosines = np.einsum("pd,xd->px", _unit(self._encoder.vectors(prompts) - self._middle), self._examples)
        weights = np.split(np.exp(SHARPNESS * cosines), self._ends, axis=1)
        return np.asarray(
            softmax(FIRMNESS * np.log(np.stack([each.mean(axis=1) for each in weights], axis=1))), dtype=np.float32
        )


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the vectors at length 1, as far as they have any."""
    lengths = np.sqrt(np.einsum("pd,pd->p", vectors, vectors))[:, None]
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
