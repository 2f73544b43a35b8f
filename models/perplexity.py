"""Measure the base model and every adapter on the unseen pairs of every domain.

Writes `adapters/perplexity.json` and, from it, the model cards. Same pairs, same limit on tokens and same
arithmetic for all; an adapter that misses its target makes the exit code 1 and is not to be shipped.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import environment  # noqa: F401 - before torch
import torch
from cards import write_cards
from pairs import DEFAULT_FINETUNE, DOMAINS, SPLIT_SEED, UNSEEN_SHARE, load_split, sample
from peft import PeftModel
from prepare import is_complete
from responses import (
    ADAPTERS,
    BASE,
    MAX_TOKENS,
    MODEL,
    Example,
    encode_short,
    load_base,
    perplexity,
    text_nll,
    write_json,
)

# The adapter's perplexity on its own domain over the base's: at most this.
TARGETS = {"math": 0.70, "coding": 0.85, "health": 0.70}
RESAMPLES = 2000

Sums = list[tuple[float, int]]  # for each response: nats and tokens


def measure(adapter: Path | None, domains: dict[str, Sequence[Example]]) -> dict[str, Sums]:
    """What the base (None) or an adapter makes of each domain's responses."""
    model, _ = load_base()
    if adapter:
        PeftModel.from_pretrained(model, adapter)  # in place: the model's own forward pass goes through it
    sums: dict[str, Sums] = {}
    for domain, examples in domains.items():
        started = time.monotonic()
        sums[domain] = text_nll(model, examples)
        figure, seconds = perplexity(sums[domain]), time.monotonic() - started
        print(f"{adapter.name if adapter else 'base':>7} on {domain:<7} {figure:7.2f}  ({seconds:.0f} s)", flush=True)
    return sums


def ratio_interval(base: Sums, adapter: Sums) -> tuple[float, float]:
    """The middle 95 % of the ratio of perplexities when the responses are drawn again, paired, with replacement."""
    draw = random.Random(SPLIT_SEED)  # noqa: S311 - reproducible, not secret
    places = range(len(base))
    ratios = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(places, k=len(base))
        ratios.append(perplexity([adapter[at] for at in drawn]) / perplexity([base[at] for at in drawn]))
    ratios.sort()
    return ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES)]


def main() -> int:
    """Run from the command line; 1 when an adapter misses its target."""
    parser = argparse.ArgumentParser(prog="models/perplexity.py", description=__doc__.splitlines()[0])
    parser.add_argument("--finetune", type=Path, default=DEFAULT_FINETUNE, help="folder of math.jsonl and health.jsonl")
    parser.add_argument("--pairs", type=int, default=100, help="unseen pairs of each domain, at most (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    options = parser.parse_args()
    if not is_complete(BASE):
        print("the base model is missing: python models/prepare.py", file=sys.stderr)
        return 1

    torch.set_num_threads(options.threads)
    _, tokenizer = load_base()
    domains: dict[str, Sequence[Example]] = {}
    for domain in DOMAINS:
        unseen = sample(load_split(domain, options.finetune).unseen, options.pairs)
        domains[domain] = encode_short(tokenizer, unseen)
    sums = {"base": measure(None, domains)} | {name: measure(ADAPTERS / name, domains) for name in DOMAINS}
    ratios = {name: perplexity(sums[name][name]) / perplexity(sums["base"][name]) for name in DOMAINS}
    write_json(
        ADAPTERS / "perplexity.json",
        {
            "measure": "exp of the mean negative log-likelihood per token of the response's text, end of turn excluded",
            "base": MODEL,
            "split": {"unseen_share": UNSEEN_SHARE, "seed": SPLIT_SEED, "max_tokens": MAX_TOKENS},
            "pairs": {name: len(examples) for name, examples in domains.items()},
            "response_tokens": {name: sum(tokens for _, tokens in sums["base"][name]) for name in DOMAINS},
            "perplexity": {
                model: {domain: round(perplexity(of), 3) for domain, of in of_model.items()}
                for model, of_model in sums.items()
            },
            "own_domain_ratio": {name: round(ratio, 4) for name, ratio in ratios.items()},
            "own_domain_ratio_95": {
                name: [round(end, 4) for end in ratio_interval(sums["base"][name], sums[name][name])]
                for name in DOMAINS
            },
            "target_ratio": TARGETS,
            "versions": {
                "python": ".".join(map(str, sys.version_info[:3])),
                **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
            },
        },
    )
    write_cards(ADAPTERS)
    missed = [name for name in DOMAINS if ratios[name] > TARGETS[name]]
    for name in missed:
        missing = f"{ratios[name]:.2f} of the base's perplexity, more than {TARGETS[name]:.2f}"
        print(f"{name}: {missing}: do not ship", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
