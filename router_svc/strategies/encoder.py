"""The strategy `encoder`: a sentence encoder and a calibrated linear head."""

import math
from collections.abc import Sequence
from typing import Never

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.calibration import softmax
from router_svc.strategies.encoder_model import SentenceModel
from router_svc.strategies.encoder_reading import Reader

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
MOST_TOKENS = 512  # that such an encoder has positions for


class Encoder:
    """Scores a prompt by its meaning: tokens → a vector of unit length → a linear layer → probabilities.

    Prompts are run one by one, so a prompt has the same row, to the bit, in any batch.

    Source:
        Reimers, Gurevych 2019 (arXiv 1908.10084): mean-pooled sentence vectors; Simonds et al. 2024
        (arXiv 2410.07490, MoDEM): an encoder that picks a domain's expert.
    """

    name = "encoder"

    def __init__(self, artefact: Artefact) -> None:
        """Raises ArtefactError when the artefact is another strategy's, lacks a part, or its parts do not fit."""
        if artefact.strategy != self.name:
            raise ArtefactError(f"{artefact.source}: fitted for strategy {artefact.strategy!r}, not {self.name!r}")
        if not artefact.experts:
            raise ArtefactError(f"{artefact.source}: names no experts")
        most = _most_tokens(artefact)
        self.experts = artefact.experts
        self.generation = artefact.id
        self.created = artefact.created
        try:
            self._reader = Reader(_file(artefact, TOKENIZER), most=most)
        except ValueError as error:
            _refuse(artefact, TOKENIZER, error)
        try:
            self._model = SentenceModel(_file(artefact, MODEL))
            self.dims = self._model.probe(self._reader.largest_id, most)
        except ValueError as error:
            _refuse(artefact, MODEL, error)
        self._weight, self._bias = _head(artefact, self.dims)

    def vectors(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return what the prompts mean, shape (prompts, dims), rows of unit length; near ones mean alike."""
        vectors = np.zeros((len(prompts), self.dims), dtype=np.float32)
        for row, prompt in enumerate(prompts):
            vectors[row] = self._model.encode(self._reader.read(prompt))
        return vectors

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        # einsum, unlike BLAS, adds up a row the same way in any batch.
        logits = np.einsum("pd,de->pe", self.vectors(prompts), self._weight) + self._bias
        logits[~np.isfinite(logits).all(axis=1)] = 0  # a vector that is no number says nothing: all experts alike
        return softmax(logits).astype(np.float32)


def _file(artefact: Artefact, name: str) -> bytes:
    if name not in artefact.files:
        raise ArtefactError(f"{artefact.source}: has no {name}")
    return artefact.files[name]


def _most_tokens(artefact: Artefact) -> int:
    """Return how many tokens are read of a prompt."""
    most = artefact.settings.get("most_tokens")
    if isinstance(most, bool) or not isinstance(most, int) or not 4 <= most <= MOST_TOKENS:
        raise ArtefactError(f"{artefact.source}: most_tokens is {most!r}, not a whole number from 4 to {MOST_TOKENS}")
    return most


def _head(artefact: Artefact, dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (dims, experts) and bias (experts,) of the linear layer, the temperature divided out."""
    shapes = {name: tensor.shape for name, tensor in artefact.tensors.items()}
    experts = len(artefact.experts)
    if shapes != {"weight": (dims, experts), "bias": (experts,)}:
        raise ArtefactError(
            f"{artefact.source}: the head has tensors {shapes}, not weight ({dims}, {experts}) and bias ({experts},)"
        )
    weight, bias = artefact.tensors["weight"], artefact.tensors["bias"]
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ArtefactError(f"{artefact.source}: the head holds a value that is not finite")
    temperature = artefact.settings.get("temperature")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ArtefactError(f"{artefact.source}: temperature is {temperature!r}, not a number")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ArtefactError(f"{artefact.source}: temperature is {temperature!r}, not above 0")
    return weight / np.float32(temperature), bias / np.float32(temperature)


def _refuse(artefact: Artefact, name: str, problem: Exception) -> Never:
    raise ArtefactError(" ".join(f"{artefact.source}/{name}: {problem}".split())) from None
