"""Scores that keep their word: a temperature makes stated confidence the share of times that it is right.

Pure functions. Whoever fits gives prompts that the classifier was not fitted on; how well it kept its word is measured
elsewhere, by `judging.expected_calibration_error`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = 0.05, 20.0  # the range that is searched
STEPS = 60  # of the search; each narrows the range to 0.618 of what it was


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, shape (prompts, experts), rows summing to 1; a row is bit for bit the same in any batch."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the mean of -log of the probability given to the label, in nats.

    Args:
        logits: unscaled log-probabilities, shape (prompts, experts), not empty.
        labels: columns, shape (prompts,).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return float(normalised.mean())


def temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the T that minimises the log loss of softmax(logits / T).

    Args:
        logits: of prompts that were held back from fitting, shape (prompts, experts).
        labels: their columns, shape (prompts,).

    Returns:
        A temperature within `TEMPERATURES`; 1 where there is nothing to learn from.

    Source:
        Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), section 4.2. The loss has one minimum in 1 / T.
    """
    if len(labels) == 0 or logits.shape[1] < 2:
        return 1.0
    low, high = TEMPERATURES
    found = _least(lambda sharpness: log_loss(logits * sharpness, labels), 1 / high, 1 / low)
    return float(1 / found)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum is least, by golden-section search on a logarithmic scale."""
    ratio = (5**0.5 - 1) / 2
    low, high = np.log(low), np.log(high)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(np.exp(left)), function(np.exp(right))
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(np.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(np.exp(right))
    return float(np.exp((low + high) / 2))
