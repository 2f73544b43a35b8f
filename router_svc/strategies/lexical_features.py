"""Text → the features that the strategy `lexical` counts: words, numbers, signs, pairs of them, and stems."""

import re
from itertools import pairwise

NUMBER = "#"  # stands for every number: that there is one tells more than which
STEM = 5  # letters; of a longer word these count as well, so that "integrating" shares something with "integral"

_any = re.compile(r"[^\W\d_]+|\d+|[^\w\s]").findall
_ascii = re.compile(r"[a-z]+|[0-9]+|[!-/:-@\[-^`{-~\x00-\x08\x0e-\x1b\x7f]").findall  # the same, in half the time


def runs_of(text: str) -> list[str]:
    """Return runs of letters in lower case, runs of digits, and every other sign by itself.

    Signs carry meaning here: brackets and equals signs are code, backslashes and dollar signs formulae.
    """
    lower = text.lower()
    found: list[str] = _ascii(lower) if lower.isascii() else _any(lower)
    return found


def features_of(text: str) -> dict[str, None]:
    """Return the features of a text, each once.

    A run is a feature, all numbers being the same; a pair of neighbours is one ("prove that"), and so is the stem of a
    long word ("integ-").
    """
    tokens = [NUMBER if run.isdecimal() else run for run in runs_of(text)]
    features = dict.fromkeys(tokens)
    features.update(dict.fromkeys(map(" ".join, pairwise(tokens))))
    features.update(dict.fromkeys([stem_of(token) for token in tokens if len(token) > STEM]))
    return features


def stem_of(word: str) -> str:
    """Return the feature that stands for a long word's beginning."""
    return f"{word[:STEM]}-"


class Index:
    """Finds the places of a text's features in a vocabulary: what `features_of` and a look-up of each would find, at
    half the cost, since no pair needs to be put together.

    `features_of` says what is looked for; this says how. A test holds them to each other.
    """

    def __init__(self, features: "dict[str, int]") -> None:
        """Args:
        features: feature → place.
        """
        self._stems = {
            name[:-1]: place for name, place in features.items() if len(name) == STEM + 1 and name[-1] == "-"
        }
        # word → the places of itself and its stem, and of its pairs by their second word
        self._words: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {}
        pairs: dict[str, dict[str, int]] = {}
        for name, place in features.items():
            first, space, second = name.partition(" ")
            if space:
                pairs.setdefault(first, {})[second] = place
        for word in {name for name in features if " " not in name} | pairs.keys():
            own = [features[word]] if word in features else []
            if len(word) > STEM and (stem := features.get(stem_of(word))) is not None:
                own.append(stem)
            self._words[word] = tuple(own), pairs.get(word, {})

    def places(self, text: str) -> list[int]:
        """Return the places of a text's known features, each once, in an order that depends on the text alone."""
        found: list[int] = []
        known, stems = self._words.get, self._stems.get
        after: dict[str, int] = {}
        for run in runs_of(text):
            if (entry := known(run)) is None and run.isdecimal():
                run = NUMBER
                entry = known(run)
            if (pair := after.get(run)) is not None:
                found.append(pair)
            if entry is None:
                after = {}
                if len(run) > STEM and (stem := stems(run[:STEM])) is not None:
                    found.append(stem)
            else:
                found += entry[0]
                after = entry[1]
        return list(dict.fromkeys(found))
