"""Two fitted artefacts and prompts that they have not seen → the artefact of the strategy `cascade`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router_svc.classifying import drift
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.recipe import FitError, Progress
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError, Json
from router_svc.strategies.cascade import Cascade, margins, mixed
from router_svc.strategies.opening import open_strategy

MARGINS = tuple(round(float(margin), 2) for margin in np.linspace(0, 1, 51))
WEIGHTS = 0.5, 1.0  # of the encoder where both were asked, if none is given: the mean of the two, or it alone
BATCH = 32


def fit(
    corpus: Sequence[LabelledPrompt],
    *,
    lexical: Path,
    encoder: Path,
    out: Path,
    loss: float,
    asks: float,
    weight: float | None = None,
    sources: Sequence[Json],
    progress: Progress = lambda step, done, of: None,
) -> Artefact:
    """Choose the margin below which `encoder` is asked, and how much its scores then weigh beside those of `lexical`.

    Of the margins whose accuracy is within `loss` of the best, the largest that `asks` allows is taken. A smaller one
    would be cheaper and as good here; but these prompts are like those that `lexical` knows, and it is on others, which
    it is unsure of more often, that the encoder pays.

    Args:
        corpus: prompts that neither artefact was fitted on; those without a domain are left out.
        lexical: folder of the one.
        encoder: folder of the other.
        out: where the artefact will be, from which the paths of the two start.
        loss: share of right answers, in [0, 1].
        asks: share of the prompts that the encoder may be asked about, in [0, 1].
        weight: of the encoder in the mean, in [0, 1]; None: the one of `WEIGHTS` that is right more often.
        sources: what to write down about the corpus's files: name, SHA-256, prompts.
        progress: told about each step.

    Raises:
        ArtefactError: an artefact cannot be used, or the two score different experts.
        FitError: no prompt has a domain that they know.
    """
    ids = {"lexical": artefacts.load(lexical).id, "encoder": artefacts.load(encoder).id}
    first, second = (
        open_strategy(name, artefact=folder, experts=(), pinned=None, seed=0)
        for name, folder in (("lexical", lexical), ("encoder", encoder))
    )
    if set(first.experts) != set(second.experts):
        raise ArtefactError(f"{encoder}: scores {', '.join(second.experts)}, but {lexical} {', '.join(first.experts)}")
    labelled = [line for line in corpus if line.domain in first.experts]
    if not labelled:
        raise FitError(f"no prompt has a domain among {', '.join(first.experts)}")
    texts = [line.prompt for line in labelled]
    labels = np.array([first.experts.index(line.domain or "") for line in labelled])
    drafts = first.scores(texts)
    opinions = np.empty_like(drafts)
    columns = [second.experts.index(expert) for expert in first.experts]
    for at in range(0, len(texts), BATCH):
        progress("asking the encoder", at, len(texts))
        opinions[at : at + BATCH] = second.scores(texts[at : at + BATCH])[:, columns]
    tried = {1.0, *(WEIGHTS if weight is None else [weight])}
    curves = {one: curve(drafts, mixed([drafts, opinions], [1 - one, one]), labels) for one in sorted(tried)}
    if weight is None:
        weight = max(curves, key=lambda one: curves[one][-1]["accuracy"])
    point = chosen(curves[weight], loss, asks)
    finished = mixed([drafts, opinions], [1 - weight, weight])
    scores = np.where(margins(drafts)[:, None] >= point["margin"], drafts, finished)
    return Artefact(
        strategy=Cascade.name,
        experts=first.experts,
        words=(),
        tensors={},
        settings={
            "margin": point["margin"],
            "encoder_weight": weight,
            "loss": loss,
            "asks": asks,
            "lexical": {"folder": os.path.relpath(lexical, out), "id": ids["lexical"]},
            "encoder": {"folder": os.path.relpath(encoder, out), "id": ids["encoder"]},
        },
        provenance={
            "corpus": list(sources),
            "prompts": len(labelled),
            drift.TRAFFIC: drift.fitted(scores, first.experts),
        },
        mapping={
            "curve": curves[weight],
            "encoder_alone": curves[1.0][-1]["accuracy"],
            "lexical_alone": curves[weight][0]["accuracy"],
        },
    )


def curve(drafts: NDArray[np.float32], finished: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Json]:
    """Return, for each of `MARGINS`, which share is asked about and which share of all is right.

    Args:
        drafts: scores of the first, shape (prompts, experts).
        finished: scores where both were asked, likewise.
        labels: columns, shape (prompts,).
    """
    lead = margins(drafts)
    right_at_once, right_after = drafts.argmax(axis=1) == labels, finished.argmax(axis=1) == labels
    points: list[Json] = []
    for margin in MARGINS:
        # A margin of 1 asks about everything: the last point is the strategies' best.
        asked = lead < margin if margin < 1 else np.ones(len(lead), dtype=np.bool_)
        right = np.where(asked, right_after, right_at_once)
        points.append(
            {"margin": margin, "asked": round(float(asked.mean()), 4), "accuracy": round(float(right.mean()), 4)}
        )
    return points


def chosen(points: Sequence[Json], loss: float, asks: float) -> Json:
    """Return the point that asks most, up to a share of `asks`, among those within `loss` of the best accuracy; where
    all of these ask more, the one that asks least."""
    best = max(point["accuracy"] for point in points)
    good = [point for point in points if point["accuracy"] >= best - loss]
    return max((point for point in good if point["asked"] <= asks), key=lambda point: point["margin"], default=good[0])
