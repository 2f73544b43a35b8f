"""How good are the scores? Pure functions from scores and labels to figures."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of confidence, as in the source of `reliability`


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the share of rows whose prediction is the label, in [0, 1]; both of shape (prompts,), not empty."""
    return float((predicted == labels).mean())


def confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count label by prediction: shape (classes, classes), rows are labels, columns are predictions."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def macro_recall(counts: NDArray[np.int64]) -> float:
    """Return the mean over the classes that occur of the share of each that was found, in [0, 1].

    Args:
        counts: a confusion matrix, rows being labels; at least one row is not zero.
    """
    occurring = counts.sum(axis=1)
    return float((counts.diagonal()[occurring > 0] / occurring[occurring > 0]).mean())


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of like confidence; everything but `prompts` is in [0, 1]."""

    lower: float  # confidence above this,
    upper: float  # up to this
    prompts: int  # at least one
    confidence: float  # mean of what was stated
    accuracy: float  # share that was right


def reliability(confidence: NDArray[np.float32], correct: NDArray[np.bool_], *, bins: int = BINS) -> list[Bin]:
    """Hold stated confidence against accuracy, bin by bin; bins are of equal width, and empty ones are left out.

    Args:
        confidence: probability given to the predicted class, shape (prompts,).
        correct: whether the prediction was right, shape (prompts,).
        bins: how many bins [0, 1] is cut into.

    Source:
        Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), section 2.
    """
    stated = confidence.astype(np.float64)
    bin_of = np.clip(np.ceil(stated * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        Bin(
            at / bins,
            (at + 1) / bins,
            int(inside.sum()),
            float(np.clip(stated[inside].mean(), 0, 1)),
            float(correct[inside].mean()),
        )
        for at in range(bins)
        if (inside := bin_of == at).any()
    ]


def expected_calibration_error(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], *, bins: int = BINS
) -> float:
    """Return how far stated confidence is from accuracy, in [0, 1].

    The gap between mean confidence and accuracy is averaged over the bins of `reliability`, each weighing what it
    holds.

    Args:
        confidence: probability given to the predicted class, shape (prompts,), not empty.
        correct: whether the prediction was right, shape (prompts,).
        bins: how many bins [0, 1] is cut into.

    Source:
        Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), equation 3.
    """
    found = reliability(confidence, correct, bins=bins)
    return sum(each.prompts * abs(each.confidence - each.accuracy) for each in found) / len(confidence)


def interval(share: float, of: int, *, deviations: float = 1.96) -> tuple[float, float]:
    """Return between which shares the true one lies, in 95 of 100 samples like this.

    Args:
        share: what was found, in [0, 1].
        of: prompts that it was found on, at least one.
        deviations: standard deviations to either side; 1.96 makes it 95 %.

    Source:
        Wilson 1927: unlike the plain normal interval it stays within [0, 1] and holds for few prompts.
    """
    squared = deviations**2 / of
    middle = (share + squared / 2) / (1 + squared)
    half = deviations / (1 + squared) * math.sqrt(share * (1 - share) / of + squared / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def balance(members: NDArray[np.int64]) -> dict[str, float | list[float]]:
    """Describe how evenly prompts fall on clusters (or experts).

    Args:
        members: prompts in each, shape (clusters,).

    Returns:
        `shares` of each in [0, 1], and `max_over_mean`: 1 when all hold the same, the number of clusters when one
        holds everything, 0 when none holds any.
    """
    shares = members / max(1, members.sum())
    return {"shares": [round(float(share), 6) for share in shares], "max_over_mean": float(shares.max() * len(shares))}
