"""Refit the head of the router's artefact `encoder` to more prompts than the encoder was tuned on; its vectors stay.

    python models/everyday.py > build/everyday.jsonl
    python models/encoder_head.py --tuned build/encoder-narrow --data train.jsonl --more build/everyday.jsonl

A head learns from a few thousand prompts in minutes what tuning would take half an hour for: here, that everyday words
do not make a prompt general. It is blended with the head that was tuned with the encoder, which knows better what the
encoder was tuned on. The head is fitted to vectors in float32, which are quick to make in batches; the temperature,
with the very model that serves, to what neither tuning nor the head has seen: the prompts that tuning held back, and
as large a share of the further ones.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import numpy as np
from encoder_base import embed, load_base, load_tokenizer
from encoder_corpus import Line, read, split
from encoder_tuning import class_weights
from encoder_weights import blended
from export_encoder import OUT
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from router_svc.classifying import drift
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact
from router_svc.strategies.calibration import softmax, temperature
from router_svc.strategies.encoder import Encoder
from router_svc.strategies.encoder_reading import head_and_tail

STRENGTH = 3.0  # scikit-learn's C: 1 to 10 do alike on what is known, less is better on unknown sources
SHARE = 0.75  # of the new head: a quarter of the old one keeps most of what it knows


def vectors_of(tuned: Path, lines: Sequence[Line], most: int) -> NDArray[np.float32]:
    """Return the prompts' vectors by the tuned encoder, shape (prompts, dims)."""
    model, _, _ = blended(load_base(), tuned, 1.0)
    found = load_tokenizer().encode_batch([line.prompt for line in lines])
    return embed(model, [head_and_tail(one.ids, most) for one in found])


def refitted(
    artefact: Artefact,
    data: Sequence[Line],
    more: Sequence[Line],
    vectors: NDArray[np.float32],
    *,
    strength: float,
    share: float,
) -> Artefact:
    """Return the artefact with a new head and temperature; its provenance names no files yet.

    Args:
        vectors: of `data` and `more` by the encoder before it was quantised, shape (prompts, dims).
    """
    encoder = Encoder(artefact)
    labels = np.array([encoder.experts.index(line.domain) for line in (*data, *more)])
    balance = artefact.settings["runs"][0]["balance"]
    tuned_on = labels[: len(data)]
    by_class = class_weights(tuned_on, len(encoder.experts), balance)
    weights = np.concatenate([by_class[tuned_on], np.ones(len(more))])
    held_back = _held_back(artefact, data, more)
    head = LogisticRegression(C=strength, max_iter=300)
    head.fit(vectors[~held_back], labels[~held_back], sample_weight=weights[~held_back])
    weight = share * head.coef_.T + (1 - share) * artefact.tensors["weight"]
    bias = share * head.intercept_ + (1 - share) * artefact.tensors["bias"]
    lines = [*data, *more]
    logits = encoder.vectors([lines[at].prompt for at in np.flatnonzero(held_back)]) @ weight + bias
    found = round(temperature(logits, labels[held_back]), 4)
    return replace(
        artefact,
        tensors={"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)},
        settings=artefact.settings | {"temperature": found, "head": {"strength": strength, "share": share}},
        provenance={
            "prompts": int((~held_back).sum()),
            "prompts_held_back": int(held_back.sum()),
            "labels": dict(sorted(Counter(line.domain for line in (*data, *more)).items())),
            "base": artefact.provenance["base"],
            "made_with": artefact.provenance["made_with"] | {"scikit-learn": version("scikit-learn")},
            drift.TRAFFIC: drift.fitted(softmax(logits / found).astype(np.float32), encoder.experts),
        },
    )


def _held_back(artefact: Artefact, data: Sequence[Line], more: Sequence[Line]) -> NDArray[np.bool_]:
    """Return which prompts are for the temperature alone: by the very draw of the tuning."""
    run = artefact.settings["runs"][-1]
    chosen = np.zeros(len(data) + len(more), dtype=np.bool_)
    for start, lines in ((0, data), (len(data), more)):
        renumbered = [replace(line, number=start + at) for at, line in enumerate(lines)]
        chosen[[line.number for line in split(renumbered, run["held_back"], run["seed"])[1]]] = True
    return chosen


def _file(path: Path, lines: Sequence[Line]) -> dict[str, Any]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "prompts": len(lines)}


def main() -> int:
    """Run from the command line; 1 where the artefact was tuned on other prompts."""
    parser = argparse.ArgumentParser(prog="models/encoder_head.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tuned", type=Path, required=True, help="folder that train_encoder.py wrote")
    parser.add_argument("--cache", type=Path, help="where vectors are kept from one run to the next")
    parser.add_argument("--data", type=Path, required=True, help="the file that the encoder was tuned on")
    parser.add_argument("--more", type=Path, required=True, help="further prompts, of the same domains")
    parser.add_argument("--artefact", type=Path, default=OUT, help="whose head it is (default: the shipped one)")
    parser.add_argument("--strength", type=float, default=STRENGTH, help=f"(default {STRENGTH:g})")
    parser.add_argument("--share", type=float, default=SHARE, help=f"of the new head in the blend (default {SHARE:g})")
    parser.add_argument("--out", type=Path, default=OUT, help="where the new artefact goes (default: over the old one)")
    options = parser.parse_args()
    artefact = artefacts.load(options.artefact)
    data, more = read(options.data), read(options.more)
    files = [_file(options.data, data), _file(options.more, more)]
    if artefact.provenance["corpus"][0]["sha256"] != files[0]["sha256"]:
        print(f"{options.artefact}: was tuned on another file than {options.data}", file=sys.stderr)
        return 1
    if options.cache is not None and options.cache.exists():
        vectors = np.load(options.cache)
    else:
        vectors = vectors_of(options.tuned, [*data, *more], artefact.settings["most_tokens"])
        if options.cache is not None:
            np.save(options.cache, vectors)
    found = refitted(artefact, data, more, vectors, strength=options.strength, share=options.share)
    identity = artefacts.save(options.out, replace(found, provenance={"corpus": files, **found.provenance}))
    print(f"{options.out}: {identity}, temperature {found.settings['temperature']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
