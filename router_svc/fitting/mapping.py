"""From clusters to experts: which run of k-means to keep, and what each of its clusters stands for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_svc.fitting.balanced import squared_distances
from router_svc.fitting.judging import accuracy, confusion, macro_recall
from router_svc.strategies.artefact import Json

PRIOR_PROMPTS = 5.0  # a cluster's label shares are smoothed with so many prompts distributed like the corpus
TELLING_WORDS = 8  # shown for each cluster


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of k-means over the corpus, judged."""

    centres: NDArray[np.float64]  # (clusters, components)
    members: NDArray[np.int64]  # each prompt's nearest centre, (prompts with words,)
    counts: NDArray[np.int64]  # labelled prompts, (clusters, experts)
    merit: float  # higher is better


def judge(points: NDArray[np.float64], centres: NDArray[np.float64], expert_of: NDArray[np.int64], experts: int) -> Run:
    """Measure a run as it will serve: by nearest centre.

    Args:
        points: the prompts with words, shape (prompts, components).
        centres: shape (clusters, components).
        expert_of: the label of each prompt as a column, -1 for none, shape (prompts,).
        experts: how many columns there are.

    With labels, the best run is the one whose clusters find them best, each cluster speaking for its first expert:
    accuracy + macro recall, lest a rare domain be given up. Without labels it is the tightest one.
    """
    distances = squared_distances(points, centres)
    members = distances.argmin(axis=1)
    counts = np.zeros((len(centres), experts), dtype=np.int64)
    labelled = expert_of >= 0
    if not labelled.any():
        return Run(centres, members, counts, merit=-float(distances.min(axis=1).sum()))
    np.add.at(counts, (members[labelled], expert_of[labelled]), 1)
    predicted = smoothed(counts).argmax(axis=1)[members[labelled]]
    found = confusion(predicted, expert_of[labelled], experts)
    merit = accuracy(predicted, expert_of[labelled]) + macro_recall(found)
    return Run(centres, members, counts, merit)


def smoothed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return label shares, shape (clusters, experts), each row smoothed with the corpus's own shares."""
    mixed = counts + PRIOR_PROMPTS * counts.sum(axis=0) / counts.sum()
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))


def shares_of(run: Run, by_hand: Mapping[int, str], experts: tuple[str, ...]) -> tuple[NDArray[np.float64], str]:
    """Return each cluster's distribution over experts, and whether labels, a hand or both gave it.

    A cluster that neither speaks for is shared evenly, so a selection finds it unsure.
    """
    clusters = len(run.centres)
    if run.counts.any():
        shares, how = smoothed(run.counts), "labels and by hand" if by_hand else "labels"
    else:
        shares = np.full((clusters, len(experts)), 1 / max(1, len(experts)))
        how = "by hand" if by_hand else "none"
    for cluster, expert in by_hand.items():
        shares[cluster] = [float(name == expert) for name in experts]
    return shares, how


def described(
    run: Run, weights: Any, words: NDArray[Any], shares: NDArray[np.float64], experts: tuple[str, ...]
) -> list[Json]:
    """Say of each cluster how many prompts it holds, its telling words, and its first expert with its share."""
    overall = np.asarray(weights.mean(axis=0)).ravel()
    clusters: list[Json] = []
    for cluster in range(len(run.centres)):
        inside = run.members == cluster
        mean = np.asarray(weights[inside].mean(axis=0)).ravel() if inside.any() else overall
        telling = [str(words[place]) for place in np.argsort(overall - mean, kind="stable")[:TELLING_WORDS]]
        first = int(shares[cluster].argmax()) if experts else None
        clusters.append(
            {"prompts": int(inside.sum()), "words": telling}
            | ({} if first is None else {"expert": experts[first], "share": round(float(shares[cluster, first]), 4)})
        )
    return clusters
