"""The strategy `lexical`: one linear layer over the words, pairs of words and stems of a prompt."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.calibration import softmax
from router_svc.strategies.lexical_features import Index


class Lexical:
    """Scores a prompt by the weights of its features, in tens of microseconds.

    Each known feature counts once, weighted by how rare it is (its idf); the sum is scaled as if the prompt's vector
    of features had unit length, and a softmax makes it a distribution. Its temperature is part of the weights.

    Source:
        Joachims 1998, text categorisation with many relevant features; multinomial logistic regression.
    """

    name = "lexical"

    def __init__(self, artefact: Artefact) -> None:
        """Raises ArtefactError when the artefact is another strategy's, or its parts do not fit."""
        _check(artefact)
        self.experts = artefact.experts
        self.generation = artefact.id
        self.created = artefact.created
        self._index = Index({word: place for place, word in enumerate(artefact.words)})
        idf = artefact.tensors["idf"].astype(np.float64)[:, None]
        # One look-up a feature: its weights times its idf, and what it adds to the squared length.
        self._table = np.hstack([artefact.tensors["weights"] * idf, idf**2])
        self._bias = artefact.tensors["bias"].astype(np.float64)

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`. A prompt without a known feature gets the bias alone: the corpus's own shares, evened
        out as its classes were while fitting."""
        return np.asarray(softmax(self.logits(prompts)), dtype=np.float32)

    def logits(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return calibrated log-probabilities less a constant of each prompt, shape (prompts, experts).

        Each prompt is summed by itself, in the order of its features: bit for bit the same in any batch.
        """
        logits = np.empty((len(prompts), len(self.experts)))
        for at, prompt in enumerate(prompts):
            if places := self._index.places(prompt):
                sums = np.add.reduce(self._table.take(places, axis=0), axis=0)
                logits[at] = sums[:-1] / math.sqrt(sums[-1])
            else:
                logits[at] = 0.0
        return logits + self._bias


def _check(artefact: Artefact) -> None:
    """Raise ArtefactError unless the artefact holds what `Lexical` reads, in shapes that fit each other."""
    where = artefact.source
    if artefact.strategy != Lexical.name:
        raise ArtefactError(f"{where}: fitted for strategy {artefact.strategy!r}, not 'lexical'")
    words, experts = len(artefact.words), len(artefact.experts)
    shapes = {name: tensor.shape for name, tensor in artefact.tensors.items()}
    wanted = {"weights": (words, experts), "idf": (words,), "bias": (experts,)}
    if shapes != wanted or 0 in (words, experts):
        raise ArtefactError(f"{where}: tensors of shapes {shapes} where lexical needs {wanted}")
    if artefact.tensors["idf"].min() <= 0:
        raise ArtefactError(f"{where}: an idf is not above zero")
