"""What tuning gained: the published encoder with a fitted head, the tuned one, and blends of the two.

    python models/encoder_figures.py --tuned build/encoder --data train.jsonl --dev dev.jsonl [--blends 0,0.5,1]

Sources that were left out of the training are judged as well: prompts of a kind never seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from encoder_base import embed, load_base, load_tokenizer
from encoder_corpus import Line, read
from encoder_weights import RECORD, blended
from numpy.typing import NDArray

from router_svc.fitting import judging
from router_svc.strategies.calibration import softmax, temperature
from router_svc.strategies.encoder_reading import head_and_tail

SERVED = ("coding", "general", "health", "math")  # science and law count as general


def served(probabilities: NDArray[np.float64], domains: Sequence[str]) -> NDArray[np.float64]:
    """Add up what the generalist answers; shape (prompts, experts served)."""
    folded = np.zeros((len(probabilities), len(SERVED)))
    for column, domain in enumerate(domains):
        folded[:, SERVED.index(domain if domain in SERVED else "general")] += probabilities[:, column]
    return folded


def figures(logits: NDArray[np.float32], lines: Sequence[Line], domains: Sequence[str]) -> dict[str, float]:
    """Return accuracy, macro recall and calibration error, over all domains and over the experts served."""
    found: dict[str, float] = {}
    probabilities = softmax(logits)
    folded = served(probabilities, domains)
    columns = [domain if domain in SERVED else "general" for domain in domains]
    for name, scores, classes in (("six", probabilities, list(domains)), ("four", folded, list(SERVED))):
        labels = [line.domain if name == "six" else columns[list(domains).index(line.domain)] for line in lines]
        truth = np.array([classes.index(label) for label in labels])
        chosen = scores.argmax(axis=1)
        found[f"{name}_accuracy"] = judging.accuracy(chosen, truth)
        found[f"{name}_recall"] = judging.macro_recall(judging.confusion(chosen, truth, len(classes)))
        found[f"{name}_ece"] = judging.expected_calibration_error(scores.max(axis=1), chosen == truth)
    return found


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="models/encoder_figures.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tuned", type=Path, required=True, help="folder that train_encoder.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="the file that it was tuned on")
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--blends", default="0,0.5,1", help="0 is the published encoder, 1 the tuned one")
    parser.add_argument("--tokens", type=int, default=128, help="read of a prompt (default 128)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record = json.loads((options.tuned / RECORD).read_text(encoding="utf-8"))
    domains, held_back = record["domains"], set(record["held_back"])
    everything = read(options.data)
    groups = {
        "held back": [line for line in everything if line.number in held_back],
        "dev": read(options.dev),
        "sources left out": [line for line in everything if line.source in record["without"]],
    }
    tokenizer = load_tokenizer()
    for blend in map(float, options.blends.split(",")):
        model, weight, bias = blended(load_base(), options.tuned, blend)
        heat = 1.0
        for name, lines in groups.items():
            if not lines:
                continue
            found = tokenizer.encode_batch([line.prompt for line in lines])
            logits = embed(model, [head_and_tail(one.ids, options.tokens) for one in found]) @ weight + bias
            if name == "held back":
                truth = np.array([domains.index(line.domain) for line in lines])
                heat = temperature(logits, truth)
            _show(f"{blend:g} {name}", logits / heat, lines, domains)
            for source in record["without"] if name == "sources left out" else ():
                of = [at for at, line in enumerate(lines) if line.source == source]
                _show(f"{blend:g}   {source}", logits[of] / heat, [lines[at] for at in of], domains)
    return 0


def _show(name: str, logits: NDArray[np.float32], lines: Sequence[Line], domains: Sequence[str]) -> None:
    found = figures(logits, lines, domains)
    print(f"{name:28} {len(lines):5}  " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
