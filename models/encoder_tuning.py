"""How the encoder is tuned: a head on fixed vectors first, then the upper layers together with it.

Source:
    Kumar et al. 2022 (arXiv 2202.10054): linear probing, then fine-tuning.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from encoder_base import by_length, pooled
from encoder_corpus import Line, altered
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from transformers import BertModel

from router_svc.strategies.encoder_reading import head_and_tail

REPORT_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the encoder is tuned."""

    passes: int = 2
    batch: int = 32  # prompts a step
    most_tokens: int = 64  # of a prompt, half from its head and half from its tail
    frozen_layers: int = 3  # of six, from below, and the embeddings
    encoder_rate: float = 1e-4  # peak learning rates; both rise over the first steps, then fall to 0 as a cosine
    head_rate: float = 3e-3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    smoothing: float = 0.05  # of the labels
    balance: float = 0.5  # a class counts (its share) ** -balance: 0 as it comes, 1 all classes alike
    nearness: float = 0.5  # weight of 1 - cosine with the published vector
    head_strength: float = 10.0  # scikit-learn's C of the first head
    held_back: float = 0.06  # share of the prompts kept for calibration
    inner: int = 1536  # units of a feed-forward layer
    seed: int = 20


DEFAULTS = Recipe()


def class_weights(labels: NDArray[np.int64], classes: int, balance: float) -> NDArray[np.float64]:
    """Weigh classes by (share) ** -balance, 1 on average over the prompts."""
    counts = np.bincount(labels, minlength=classes)
    weights = (counts / counts.sum()) ** -balance
    return weights / (weights[labels].mean())


def fit_head(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], strength: float
) -> torch.nn.Linear:
    """Fit the linear layer on fixed vectors."""
    fitted = LogisticRegression(C=strength, max_iter=300).fit(vectors, labels, sample_weight=weights[labels])
    head = torch.nn.Linear(vectors.shape[1], len(weights))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    return head


def plan(lines: Sequence[Line], tokenizer: Tokenizer, recipe: Recipe) -> list[tuple[list[int], list[list[int]]]]:
    """Every step's batch: places in `lines`, and the tokens of their prompts, altered anew in each pass."""
    draw = random.Random(recipe.seed)  # noqa: S311 - reproducible, not secret
    steps: list[tuple[list[int], list[list[int]]]] = []
    for _ in range(recipe.passes):
        order = draw.sample(range(len(lines)), len(lines))  # so that equal lengths meet in new company
        texts = [altered(lines[at].prompt, draw) for at in order]
        ids = [head_and_tail(found.ids, recipe.most_tokens) for found in tokenizer.encode_batch(texts)]
        batches = [
            ([order[at] for at in places], [ids[at] for at in places]) for places in by_length(ids, recipe.batch)
        ]
        steps += draw.sample(batches, len(batches))
    return steps


def tune(
    model: BertModel,
    head: torch.nn.Linear,
    steps: Sequence[tuple[list[int], list[list[int]]]],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    published: NDArray[np.float32],
    recipe: Recipe,
) -> list[float]:
    """Train the upper layers and the head in place, showing progress and the time left. Returns each step's loss.

    Without dropout: the prompts themselves are altered anew in each pass.
    """
    tuned = [w for layer in model.encoder.layer[recipe.frozen_layers :] for w in layer.parameters()]
    model.requires_grad_(False)
    for weight in tuned:
        weight.requires_grad_(True)
    groups = [{"params": tuned, "lr": recipe.encoder_rate}, {"params": head.parameters(), "lr": recipe.head_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    warmup = max(1, round(recipe.warmup_share * len(steps)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / len(steps)))
    )
    of_class = torch.from_numpy(weights).float()
    losses: list[float] = []
    started = time.monotonic()
    for done, (places, ids) in enumerate(steps, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            vectors = pooled(model, ids)
        truth = torch.from_numpy(labels[places])
        each = torch.nn.functional.cross_entropy(
            head(vectors), truth, reduction="none", label_smoothing=recipe.smoothing
        )
        far = 1 - (vectors * torch.from_numpy(published[places])).sum(1)
        loss = (of_class[truth] * each).mean() + recipe.nearness * far.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if done % REPORT_STEPS == 0 or done == len(steps):
            spent_s = time.monotonic() - started
            left_s = spent_s / done * (len(steps) - done)
            recent = float(np.mean(losses[-REPORT_STEPS:]))
            print(f"step {done}/{len(steps)}  loss {recent:.3f}  {spent_s:.0f} s, {left_s:.0f} s left", flush=True)
    return losses
