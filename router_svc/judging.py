"""How good are the scores? Pure functions from scores and labels to figures."""

import numpy as np
from numpy.typing import NDArray


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


def expected_calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], *, bins: int = 15) -> float:
    """Return how far stated confidence is from accuracy, in [0, 1].

    Predictions are put in bins of equal width by confidence; the gap between mean confidence and accuracy is
    averaged over the bins, each weighing what it holds.

    Args:
        confidence: probability given to the predicted class, shape (prompts,), not empty.
        correct: whether the prediction was right, shape (prompts,).
        bins: how many bins [0, 1] is cut into.

    Source:
        Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), equation 3.
    """
    stated = confidence.astype(np.float64)
    bin_of = np.clip(np.ceil(stated * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=stated - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


def balance(members: NDArray[np.int64]) -> dict[str, float | list[float]]:
    """Describe how evenly prompts fall on clusters (or experts).

    Args:
        members: prompts in each, shape (clusters,); at least one prompt in all.

    Returns:
        `shares` of each in [0, 1], and `max_over_mean`: 1 when all hold the same, the number of clusters when one
        holds everything.
    """
    shares = members / members.sum()
    return {"shares": [round(float(share), 6) for share in shares], "max_over_mean": float(shares.max() * len(shares))}
