"""A strategy tried on labelled prompts: how right, how sure, how even, how fast."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_svc.fitting import judging
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.strategies.clusters import NO_CLUSTER, Clusters
from router_svc.strategies.strategy import Strategy, fold

BATCH = 64  # prompts scored together
TIMED = 1000  # prompts timed one by one, about

Progress = Callable[[str, int, int], None]  # step, done, of


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a strategy made of labelled prompts. A domain that no served expert answers counts as the generalist's, in
    prediction and label alike."""

    strategy: Strategy
    labelled: Sequence[LabelledPrompt]  # not empty; one without a domain counts as the generalist's
    serve: tuple[str, ...]  # the experts of the fleet
    generalist: str  # one of them
    scores: NDArray[np.float32]  # (prompts, the strategy's experts)
    folded: NDArray[np.float32]  # (prompts, experts served)
    alone_us: NDArray[np.float64]  # microseconds a prompt took, of about `TIMED` prompts
    batched_us: NDArray[np.float64]  # microseconds a prompt took, in each batch of `BATCH`

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return [line.prompt for line in self.labelled]

    @property
    def domains(self) -> list[str]:
        """Each prompt's label."""
        return [line.domain or self.generalist for line in self.labelled]

    @property
    def served(self) -> list[str]:
        """Each prompt's label as far as the fleet serves it."""
        return [domain if domain in self.serve else self.generalist for domain in self.domains]

    @property
    def chosen(self) -> list[str]:
        """The expert with the best score, for each prompt."""
        return [self.serve[at] for at in self.folded.argmax(axis=1)]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether that is the label; shape (prompts,)."""
        return np.asarray(np.array(self.chosen) == np.array(self.served))


def attempt(
    strategy: Strategy,
    labelled: Sequence[LabelledPrompt],
    *,
    serve: Sequence[str],
    generalist: str,
    progress: Progress = lambda step, done, of: None,
) -> Trial:
    """Try a strategy: score everything in batches, and some prompts one by one for their cost; see `Trial`.

    Raises:
        ValueError: the generalist is not served, or an expert is served twice.
    """
    texts = [line.prompt for line in labelled]
    fold(np.zeros((0, len(strategy.experts)), np.float32), strategy.experts, serve=serve, generalist=generalist)
    strategy.scores(texts[:BATCH])  # the first call pays for cold caches
    scores, batched = [], []
    for at in range(0, len(texts), BATCH):
        progress(f"{strategy.name}: scoring", at, len(texts))
        batch = texts[at : at + BATCH]
        began = perf_counter()
        scores.append(strategy.scores(batch))
        batched.append((perf_counter() - began) / len(batch))
    timed = texts[:: max(1, len(texts) // TIMED)]
    alone = []
    for at, text in enumerate(timed):
        if at % BATCH == 0:
            progress(f"{strategy.name}: timing", at, len(timed))
        began = perf_counter()
        strategy.scores([text])
        alone.append(perf_counter() - began)
    found = np.concatenate(scores)
    return Trial(
        strategy=strategy,
        labelled=labelled,
        serve=tuple(serve),
        generalist=generalist,
        scores=found,
        folded=fold(found, strategy.experts, serve=serve, generalist=generalist),
        alone_us=np.array(alone) * 1e6,
        batched_us=np.array(batched) * 1e6,
    )


def report(trial: Trial) -> dict[str, Any]:
    """Return what `evaluate --json` prints: shares in [0, 1], times in microseconds per prompt."""
    strategy = trial.strategy
    return {
        "strategy": strategy.name,
        "generation": strategy.generation,
        "prompts": len(trial.labelled),
        "experts": list(trial.serve),
        "generalist": trial.generalist,
        **_figures(trial.folded, trial.serve, trial.served),
        **{
            f"domain_{name}": figure for name, figure in _figures(trial.scores, strategy.experts, trial.domains).items()
        },
        "balance": _balance(trial),
        "per_source": _per_source(trial.labelled, trial.right),
        "us_per_prompt": round(float(np.median(trial.alone_us)), 2),
        "us_per_prompt_mean": round(float(trial.alone_us.mean()), 2),
        "us_per_prompt_p99": round(float(np.percentile(trial.alone_us, 99)), 2),
        "us_per_prompt_batched": round(float(np.median(trial.batched_us)), 2),
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
        "reliability": [asdict(each) for each in judging.reliability(scores.max(axis=1), predicted == truth)],
        "recall": {
            name: round(float(row[at] / row.sum()), 6)
            for at, (name, row) in enumerate(zip(classes, counts, strict=True))
            if row.any()
        },
        "confusion": {
            name: dict(zip(classes, row.tolist(), strict=True)) for name, row in zip(classes, counts, strict=True)
        },
    }


def _balance(trial: Trial) -> dict[str, Any]:
    """Say how prompts fall on the clusters, or on the experts where a strategy has no clusters.

    `experts` names who answers each cluster; it is empty for a cluster without a prompt.
    """
    chosen = trial.folded.argmax(axis=1)
    if not isinstance(trial.strategy, Clusters):
        members = np.bincount(chosen, minlength=len(trial.serve))
        return {"of": "experts", "experts": list(trial.serve), "without_cluster": 0, **judging.balance(members)}
    nearest = trial.strategy.nearest(trial.texts)
    expert_of = dict(zip(nearest.tolist(), trial.chosen, strict=True))
    inside = nearest[nearest != NO_CLUSTER]
    return {
        "of": "clusters",
        "experts": [expert_of.get(cluster, "") for cluster in range(trial.strategy.clusters)],
        "without_cluster": len(nearest) - len(inside),
        **judging.balance(np.bincount(inside, minlength=trial.strategy.clusters)),
    }


def _per_source(labelled: Sequence[LabelledPrompt], right: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Return prompts and accuracy of each source; "mmlu/law" counts as mmlu."""
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for line, hit in zip(labelled, right, strict=True):
        found[line.source.partition("/")[0] or "unnamed"].append(bool(hit))
    return {source: {"prompts": len(hits), "accuracy": sum(hits) / len(hits)} for source, hits in sorted(found.items())}
