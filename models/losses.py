"""Losses of blends of the adapters on examples, each computed once and kept between runs.

A blend is adapters with weights; the base model has the rest of the weight, so no adapter at all is the base model and
one of weight 1 is an expert.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import torch
from merge_adapters import merge, read_adapter, write_adapter
from prepare import STAMP, sha256
from responses import ADAPTERS, BASE, Example, by_length, load_base, text_nll

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "losses.json"
REPORT_EXAMPLES = 16

Blend = tuple[tuple[str, float], ...]  # adapter and weight, by name
Sums = list[tuple[float, int]]  # of each response: nats and tokens


def blend_of(**weights: float) -> Blend:
    """A blend by name, parts of no weight left out."""
    return tuple(sorted((name, weight) for name, weight in weights.items() if weight))


def named(blend: Blend) -> str:
    """What a blend is called in output."""
    return " + ".join(f"{weight:g} {name}" for name, weight in blend) or "base"


class Losses:
    """What blends make of examples. Reads and writes its cache; one process at a time."""

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._base = sha256(BASE / STAMP)
        self._known: dict[str, dict[str, tuple[float, int]]] = {}
        if cache.is_file():
            self._known = json.loads(cache.read_text())

    def of(self, blend: Blend, examples: Sequence[Example]) -> Sums:
        """Negative log-likelihood of each response's text, in nats, and its tokens, in the order of the examples."""
        known = self._known.setdefault(self._key(blend), {})
        keys = [_key(example) for example in examples]
        missing = {key: example for key, example in zip(keys, examples, strict=True) if key not in known}
        if missing:
            model = model_of(blend)
            ordered = [example for part in by_length(list(missing.values()), 8) for example in part]
            began = time.monotonic()
            for start in range(0, len(ordered), REPORT_EXAMPLES):
                part = ordered[start : start + REPORT_EXAMPLES]  # already by length, so text_nll keeps the order
                known |= zip(map(_key, part), text_nll(model, part), strict=True)
                done, spent_s = start + len(part), time.monotonic() - began
                print(f"{named(blend)}: {done} of {len(ordered)} answers, {spent_s:.0f} s", flush=True)
                self._save()
        return [(known[key][0], known[key][1]) for key in keys]

    def _key(self, blend: Blend) -> str:
        parts = [f"{weight!r} {name} {sha256(ADAPTERS / name / 'adapter_model.safetensors')}" for name, weight in blend]
        return "; ".join([self._base, torch.__version__, *parts])

    def _save(self) -> None:
        self._cache.parent.mkdir(exist_ok=True)
        unfinished = self._cache.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self._known))
        unfinished.replace(self._cache)


def model_of(blend: Blend) -> Any:
    """The base model with a blend in it, written and loaded as it would be served."""
    model, _ = load_base()
    if blend:
        from peft import PeftModel

        with tempfile.TemporaryDirectory() as folder:
            write_adapter(merge([(read_adapter(ADAPTERS / name), weight) for name, weight in blend]), Path(folder))
            PeftModel.from_pretrained(model, folder)  # in place: the model's own forward pass goes through it
    return model


def _key(example: Example) -> str:
    return hashlib.sha256(repr((example.ids, example.start)).encode()).hexdigest()[:24]
