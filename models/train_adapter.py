"""Train one expert: a LoRA adapter over SmolLM2-135M-Instruct, on a CPU, in minutes.

Only the response's tokens count, under the prompt format that a server's chat template makes. The same
seeds, data and versions give the same adapter, to the byte, on the same kind of processor.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import torch
from pairs import DEFAULT_FINETUNE, DOMAINS, SPLIT_SEED, UNSEEN_SHARE, load_split, sample
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from prepare import is_complete
from responses import (
    ADAPTERS,
    BASE,
    MAX_TOKENS,
    MODEL,
    Example,
    by_length,
    encode_short,
    load_base,
    response_nll,
    write_json,
)
from safetensors.torch import save_file

MAX_BYTES = 5_000_000  # an adapter lives in the repository
REPORT_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one adapter is trained."""

    pairs: int  # different pairs seen, at most
    passes: int = 1  # times that each is seen
    batch: int = 8  # pairs a step
    learning_rate: float = 2e-3  # peak; rises over the first steps, then falls to 0 linearly
    warmup_steps: int = 6
    max_grad_norm: float = 1.0
    rank: int = 8
    alpha: int = 16
    # The attention projections alone: the feed-forward ones gain little more and cost size and serving time.
    modules: tuple[str, ...] = ("k_proj", "o_proj", "q_proj", "v_proj")
    seed: int = 20


RECIPES = {
    "math": Recipe(pairs=480),
    "coding": Recipe(pairs=480),
    "health": Recipe(pairs=600),
}


def with_adapter(model: Any, recipe: Recipe) -> Any:
    """Put a fresh adapter into `model`, in place: its own forward pass then goes through the adapter."""
    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.modules), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def plan(examples: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    """Every step's batch: pairs of similar length together, the order of batches shuffled anew in each pass."""
    order = random.Random(recipe.seed)  # noqa: S311 - reproducible, not secret
    steps: list[list[Example]] = []
    for _ in range(recipe.passes):
        shuffled = order.sample(examples, len(examples))  # so that equal lengths meet in new company
        batches = [batch for batch in by_length(shuffled, recipe.batch) if len(batch) == recipe.batch]
        steps += order.sample(batches, len(batches))
    return steps


def train(model: Any, adapted: Any, steps: Sequence[Sequence[Example]], recipe: Recipe) -> list[float]:
    """Train the adapter, showing progress and the time left.

    Returns:
        The mean loss per response token of each step, in nats.
    """
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / recipe.warmup_steps, (len(steps) - step) / len(steps)),
    )
    losses: list[float] = []
    started = time.monotonic()
    adapted.train()
    for done, batch in enumerate(steps, start=1):
        loss = response_nll(model, batch).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if done % REPORT_STEPS == 0 or done == len(steps):
            spent_s = time.monotonic() - started
            left_s = spent_s / done * (len(steps) - done)
            recent = statistics.fmean(losses[-REPORT_STEPS:])
            print(f"step {done}/{len(steps)}  loss {recent:.3f}  {spent_s:.0f} s, {left_s:.0f} s left", flush=True)
    adapted.eval()
    return losses


def save(adapted: Any, folder: Path) -> int:
    """Write weights in bfloat16 and their configuration, with nothing in them that names this machine.

    Returns:
        The size of the weights in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in get_peft_model_state_dict(adapted).items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapted.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = MODEL
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order changes from run to run
    write_json(folder / "adapter_config.json", config)
    return (folder / "adapter_model.safetensors").stat().st_size


def main() -> int:
    """Run from the command line; 1 when the base model is missing or the adapter came out too large."""
    parser = argparse.ArgumentParser(prog="models/train_adapter.py", description=__doc__.splitlines()[0])
    parser.add_argument("domain", choices=DOMAINS, help="the expert to train")
    parser.add_argument("--finetune", type=Path, default=DEFAULT_FINETUNE, help="folder of math.jsonl and health.jsonl")
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="the adapter goes into OUT/DOMAIN")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    options = parser.parse_args()
    if not is_complete(BASE):
        print("the base model is missing: python models/prepare.py", file=sys.stderr)
        return 1

    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.domain]
    model, tokenizer = load_base()
    pairs = sample(load_split(options.domain, options.finetune).train, recipe.pairs)
    examples = encode_short(tokenizer, pairs)
    steps = plan(examples, recipe)
    tokens = sum(len(example.ids) for batch in steps for example in batch)
    print(f"{options.domain}: {len(examples)} pairs, {len(steps)} steps, {tokens} tokens", flush=True)

    adapted = with_adapter(model, recipe)
    started = time.monotonic()
    losses = train(model, adapted, steps, recipe)
    seconds = time.monotonic() - started
    folder = options.out / options.domain
    size = save(adapted, folder)
    write_json(
        folder / "training.json",
        {
            "domain": options.domain,
            "base": MODEL,
            "recipe": asdict(recipe),
            "split": {"unseen_share": UNSEEN_SHARE, "seed": SPLIT_SEED, "max_tokens": MAX_TOKENS},
            "pairs_trained_on": len(examples),
            "steps": len(steps),
            "tokens": tokens,
            "seconds": round(seconds),
            "machine": "a virtual machine with 2 cores of an AMD EPYC (avx512_bf16), shared with other work",
            "threads": options.threads,
            "parameters": sum(w.numel() for w in adapted.parameters() if w.requires_grad),
            "adapter_bytes": size,
            "versions": {
                "python": ".".join(map(str, sys.version_info[:3])),
                **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
            },
            "loss_nats_per_token": [
                round(statistics.fmean(losses[at : at + 10]), 4) for at in range(0, len(losses), 10)
            ],
        },
    )
    if size > MAX_BYTES:
        print(f"{size} bytes, more than the repository takes ({MAX_BYTES}): lower the rank", file=sys.stderr)
        return 1
    print(f"{folder}: {size} bytes after {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
