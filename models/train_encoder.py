"""Fine-tune the router's sentence encoder on labelled prompts, on a CPU, in half an hour at most.

A linear head is fitted on the published vectors; then the upper layers and that head are trained together, held near
the published vectors. A further run goes on from an earlier one, and may narrow the feed-forward layers first.

    python models/train_encoder.py --data ../shared/prompts/train.jsonl --out build/encoder
    python models/train_encoder.py ... --start build/encoder --inner 1152 --rate 5e-5 --passes 1 --out build/narrow
    python models/train_encoder.py ... --without pubmedqa,mbpp,math   # how well does it do on sources never seen?
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from encoder_base import DIMS, embed, load_base, load_tokenizer
from encoder_corpus import Line, read, split
from encoder_narrow import narrow
from encoder_tuning import DEFAULTS, Recipe, class_weights, fit_head, plan, tune
from encoder_weights import RECORD, WEIGHTS, blended
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertModel

from router_svc.strategies.encoder_reading import head_and_tail

NARROWED_BY = 2000  # prompts that show which inner units matter
PUBLISHED_TOKENS = 128  # read of a prompt for the vector that training stays near to


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
