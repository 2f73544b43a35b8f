"""Strategies that a test can foretell."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class ByWord:
    """The first known word of a prompt decides; a prompt without one is scored evenly. The word's domain gets `sure`,
    the others share the rest."""

    name = "by_word"
    generation = "words-1"

    def __init__(self, words: Mapping[str, str], *, sure: float = 0.9) -> None:
        self.experts = tuple(dict.fromkeys(words.values()))
        self._words = words
        self._sure = sure

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Strategy.scores`."""
        return np.array([self._row(prompt) for prompt in prompts], dtype=np.float32)

    def _row(self, prompt: str) -> list[float]:
        best = next((self._words[word] for word in prompt.split() if word in self._words), None)
        if best is None:
            return [1 / len(self.experts)] * len(self.experts)
        rest = (1 - self._sure) / max(1, len(self.experts) - 1)
        return [self._sure if expert == best else rest for expert in self.experts]
