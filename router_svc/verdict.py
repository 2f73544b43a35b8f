"""A strategy tried on labelled prompts: how right, how sure, how even, how fast."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_svc import judging
from router_svc.clusters import NO_CLUSTER, Clusters
from router_svc.corpus import LabelledPrompt
from router_svc.strategy import Strategy, fold

BATCH = 64  # prompts scored together, for the batched cost
TIMED = 1000  # prompts timed one by one, at most


def judge(
    strategy: Strategy, labelled: Sequence[LabelledPrompt], *, serve: Sequence[str], generalist: str
) -> dict[str, Any]:
    """Judge a strategy by what the fleet would do with it, and by the domains themselves.

    Args:
        strategy: scores the prompts.
        labelled: prompts; not empty. One without a domain counts as the generalist's.
        serve: the experts of the fleet. A domain that none serves counts as the generalist's, in prediction and
            label alike.
        generalist: one of `serve`.

    Returns:
        What `evaluate --json` prints: shares in [0, 1], times in microseconds per prompt.

    Raises:
        ValueError: the generalist is not served, or an expert is served twice.
    """
    texts = [line.prompt for line in labelled]
    domains = [line.domain or generalist for line in labelled]
    scores = np.concatenate([strategy.scores(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])
    folded = fold(scores, strategy.experts, serve=serve, generalist=generalist)
    served = [domain if domain in serve else generalist for domain in domains]
    right = np.array(serve)[folded.argmax(axis=1)] == served
    single_us, batched_us = _cost_us(strategy, texts)
    return {
        "strategy": strategy.name,
        "generation": strategy.generation,
        "prompts": len(texts),
        "experts": list(serve),
        "generalist": generalist,
        **_figures(folded, serve, served),
        **{f"domain_{name}": figure for name, figure in _figures(scores, strategy.experts, domains).items()},
        "balance": _balance(strategy, texts, folded),
        "per_source": _per_source(labelled, right),
        "us_per_prompt": single_us,
        "us_per_prompt_batched": batched_us,
        "batch": BATCH,
    }


def _figures(scores: NDArray[np.float32], experts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, recalls, calibration and confusion; labels that no column stands for are never found."""
    classes = [*experts, *sorted(set(labels) - set(experts))]
    truth = np.array([classes.index(label) for label in labels])
    predicted = scores.argmax(axis=1)
    counts = judging.confusion(predicted, truth, len(classes))
    return {
        "accuracy": judging.accuracy(predicted, truth),
        "macro_recall": judging.macro_recall(counts),
        "ece": judging.expected_calibration_error(scores.max(axis=1), predicted == truth),
        "recall": {
            name: round(float(row[at] / row.sum()), 6)
            for at, (name, row) in enumerate(zip(classes, counts, strict=True))
            if row.any()
        },
        "confusion": {
            name: dict(zip(classes, row.tolist(), strict=True)) for name, row in zip(classes, counts, strict=True)
        },
    }


def _balance(strategy: Strategy, texts: Sequence[str], folded: NDArray[np.float32]) -> dict[str, Any]:
    """Say how prompts fall on the clusters, or on the experts where a strategy has no clusters."""
    if isinstance(strategy, Clusters):
        nearest = strategy.nearest(texts)
        inside = nearest[nearest != NO_CLUSTER]
        members = np.bincount(inside, minlength=strategy.clusters)
        return {"of": "clusters", "without_cluster": len(texts) - len(inside), **judging.balance(members)}
    members = np.bincount(folded.argmax(axis=1), minlength=folded.shape[1])
    return {"of": "experts", "without_cluster": 0, **judging.balance(members)}


def _per_source(labelled: Sequence[LabelledPrompt], right: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Return prompts and accuracy of each source; "mmlu/law" counts as mmlu."""
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for line, hit in zip(labelled, right, strict=True):
        found[line.source.partition("/")[0] or "unnamed"].append(bool(hit))
    return {source: {"prompts": len(hits), "accuracy": sum(hits) / len(hits)} for source, hits in sorted(found.items())}


def _cost_us(strategy: Strategy, texts: Sequence[str]) -> tuple[float, float]:
    """Return the median cost of a prompt alone, and the mean cost of one in a batch, in microseconds."""
    strategy.scores(texts[:BATCH])  # the first call pays for cold caches
    single = []
    for text in texts[:: max(1, len(texts) // TIMED)]:
        began = perf_counter()
        strategy.scores([text])
        single.append(perf_counter() - began)
    batched = []
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        began = perf_counter()
        strategy.scores(batch)
        batched.append((perf_counter() - began) / len(batch))
    return round(median(single) * 1e6, 2), round(median(batched) * 1e6, 2)
