"""Fine-tune the router's sentence encoder on labelled prompts, on a CPU, in a quarter of an hour.

Three steps: a linear head is fitted on the published vectors; then the upper layers and that head are trained together,
held near the published vectors; then both ends are blended. Starting from a fitted head and blending keep what the
published encoder knows about prompts of other kinds than these.

    python models/train_encoder.py --data ../shared/prompts/train.jsonl --out build/encoder
    python models/train_encoder.py ... --without pubmedqa,mbpp,math   # how well does it do on sources never seen?

Source:
    Kumar et al. 2022 (arXiv 2202.10054): linear probing, then fine-tuning. Wortsman et al. 2022 (arXiv 2109.01903):
    weights blended with the published ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from encoder_base import DIMS, by_length, embed, load_base, load_tokenizer, pooled
from encoder_corpus import Line, altered, read, split
from encoder_narrow import narrow
from encoder_weights import RECORD, WEIGHTS, blended
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from transformers import BertModel

from router_svc.encoder_reading import head_and_tail

REPORT_STEPS = 20
NARROWED_BY = 2000  # prompts that show which inner units matter
PUBLISHED_TOKENS = 128  # read of a prompt for the vector that training stays near to


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


def published_vectors(
    model: BertModel, tokenizer: Tokenizer, lines: Sequence[Line], cache: Path | None
) -> NDArray[np.float32]:
    """Return the vectors that the published encoder gives, shape (lines, dims), from `cache` where it holds them."""
    if cache is not None and cache.is_file():
        vectors: NDArray[np.float32] = np.load(cache)
        if vectors.shape == (len(lines), DIMS):
            return vectors
    ids = [
        head_and_tail(found.ids, PUBLISHED_TOKENS) for found in tokenizer.encode_batch([line.prompt for line in lines])
    ]
    vectors = embed(model, ids, bf16=False)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, vectors)
    return vectors


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


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="models/train_encoder.py", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines with `prompt`, `domain`, `source`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tuned weights and what was done")
    parser.add_argument("--without", default="", help="sources to leave out, with commas")
    parser.add_argument("--most", type=int, help="prompts used, drawn at random (default: all)")
    parser.add_argument("--cache", type=Path, help="file for the published vectors; read where it exists")
    parser.add_argument("--start", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--inner", type=int, help="narrow the feed-forward layers to so many units, before tuning")
    parser.add_argument("--rate", type=float, default=DEFAULTS.encoder_rate, help="peak learning rate of the encoder")
    parser.add_argument(
        "--passes", type=int, default=DEFAULTS.passes, help=f"over the prompts (default {DEFAULTS.passes})"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(passes=options.passes, encoder_rate=options.rate, inner=options.inner or DEFAULTS.inner)
    without = tuple(filter(None, options.without.split(",")))
    everything = read(options.data)
    lines = [line for line in everything if line.source not in without]
    domains = sorted({line.domain for line in lines})
    lines, kept = split(lines, recipe.held_back, recipe.seed)  # first: so a further run holds back the same prompts
    if options.most is not None and options.most < len(lines):
        lines = random.Random(recipe.seed).sample(lines, options.most)  # noqa: S311 - reproducible, not secret
    labels = np.array([domains.index(line.domain) for line in lines])
    weights = class_weights(labels, len(domains), recipe.balance)
    print(f"{len(lines)} prompts to train on, {len(kept)} held back, {len(domains)} domains", flush=True)

    model, tokenizer = load_base(), load_tokenizer()
    published = published_vectors(model, tokenizer, everything, options.cache)[[line.number for line in lines]]
    head = fit_head(published, labels, weights, recipe.head_strength)
    if options.start is not None:
        model, weight, bias = blended(model, options.start, 1.0)
        head.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
    if recipe.inner < DEFAULTS.inner:
        texts = [line.prompt for line in lines[:NARROWED_BY]]
        narrow(
            model,
            [head_and_tail(found.ids, recipe.most_tokens) for found in tokenizer.encode_batch(texts)],
            recipe.inner,
        )
        print(f"narrowed to {recipe.inner} inner units", flush=True)
    first = {f"head.first.{name}": w.detach().clone() for name, w in head.state_dict().items()}
    began = time.monotonic()
    losses = tune(model, head, plan(lines, tokenizer, recipe), labels, weights, published, recipe)

    options.out.mkdir(parents=True, exist_ok=True)
    tuned = {name: w for name, w in model.state_dict().items() if name.startswith("encoder.")}
    heads = first | {f"head.tuned.{name}": w for name, w in head.state_dict().items()}
    save_file({name: w.detach().contiguous() for name, w in (tuned | heads).items()}, options.out / WEIGHTS)
    record = {
        "recipe": asdict(recipe),
        "domains": domains,
        "without": without,
        "start": None if options.start is None else json.loads((options.start / RECORD).read_text(encoding="utf-8")),
        "prompts": len(lines),
        "held_back": [line.number for line in kept],
        "seconds": round(time.monotonic() - began),
        "losses": [round(loss, 4) for loss in losses],
    }
    (options.out / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"{options.out}: tuned in {record['seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
