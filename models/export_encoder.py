"""Make the router's artefact `encoder`: blend, quantise, calibrate, save.

    python models/export_encoder.py --tuned build/encoder --data ../shared/prompts/train.jsonl

The temperature is fitted on the training prompts that were held back, with the very model that will serve.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import numpy as np
from encoder_base import HEADS, MODEL, PACKAGE, base_folder, load_base
from encoder_corpus import read
from encoder_graph import quantised, sentence_encoder
from encoder_weights import RECORD, blended
from numpy.typing import NDArray

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact
from router_svc.strategies.calibration import temperature
from router_svc.strategies.encoder import MODEL as MODEL_FILE
from router_svc.strategies.encoder import TOKENIZER, Encoder

OUT = Path(__file__).parent / "router" / "encoder"
MOST_TOKENS = 128  # read of a prompt, half from its head and half from its tail
MAX_BYTES = 25_000_000  # an artefact lives in the repository


def uncalibrated(tuned: Path, share: float, record: Mapping[str, Any], provenance: Mapping[str, Any]) -> Artefact:
    """Blend and quantise; the artefact's temperature is 1."""
    model, weight, bias = blended(load_base(), tuned, share)
    weights: dict[str, NDArray[np.float32]] = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    graph = sentence_encoder(weights, layers=len(model.encoder.layer), heads=HEADS, most_tokens=MOST_TOKENS)
    return Artefact(
        strategy=Encoder.name,
        experts=tuple(record["domains"]),
        words=(),
        tensors={"weight": weight, "bias": bias},
        settings={
            "runs": [run["recipe"] | {"prompts": run["prompts"]} for run in _runs(record)],
            "most_tokens": MOST_TOKENS,
            "blend": share,
            "temperature": 1.0,
        },
        provenance=dict(provenance),
        mapping={},
        files={MODEL_FILE: quantised(graph), TOKENIZER: (base_folder() / "tokenizer.json").read_bytes()},
    )


def _runs(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the runs of training that led to one, the first one first."""
    return [*(_runs(record["start"]) if record.get("start") else []), record]


def calibrated(artefact: Artefact, prompts: list[str], labels: NDArray[np.int64]) -> Artefact:
    """Fit the temperature to prompts that training did not see."""
    vectors = Encoder(artefact).vectors(prompts)
    logits = vectors @ artefact.tensors["weight"] + artefact.tensors["bias"]
    return replace(artefact, settings=artefact.settings | {"temperature": round(temperature(logits, labels), 4)})


def main() -> int:
    """Run from the command line; 1 when the artefact came out too large."""
    parser = argparse.ArgumentParser(prog="models/export_encoder.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tuned", type=Path, required=True, help="folder that train_encoder.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="the file that it was tuned on")
    parser.add_argument("--blend", type=float, default=1.0, help="0 is the published encoder, 1 the tuned one")
    parser.add_argument("--out", type=Path, default=OUT, help=f"(default {OUT.relative_to(Path(__file__).parents[1])})")
    options = parser.parse_args()
    record = json.loads((options.tuned / RECORD).read_text(encoding="utf-8"))
    lines = read(options.data)
    provenance = {
        "corpus": [
            {
                "file": options.data.name,
                "sha256": hashlib.sha256(options.data.read_bytes()).hexdigest(),
                "prompts": len(lines),
            }
        ],
        "prompts": len(lines) - len(record["held_back"]),
        "prompts_held_back": len(record["held_back"]),
        "labels": dict(sorted(Counter(line.domain for line in lines).items())),
        "base": {"model": MODEL, "package": f"{PACKAGE} {version(PACKAGE)}", "licence": "Apache-2.0"},
        "made_with": {name: version(name) for name in ("numpy", "onnx", "onnxruntime", "torch", "transformers")},
    }
    by_number = {line.number: line for line in lines}
    held_back = [by_number[number] for number in record["held_back"]]
    labels = np.array([record["domains"].index(line.domain) for line in held_back])
    artefact = uncalibrated(options.tuned, options.blend, record, provenance)
    artefact = calibrated(artefact, [line.prompt for line in held_back], labels)
    identity = artefacts.save(options.out, artefact)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.suffix != ".md")
    print(f"{options.out}: {identity}, {size / 1e6:.1f} MB, temperature {artefact.settings['temperature']}")
    return 0 if size <= MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
