"""Blend LoRA adapters into one that PEFT and vLLM load: its change is the weighted sum of theirs.

The sum is of the products B·A, as SMEAR merges experts (arXiv 2306.03745), never of the factors: the product of
averaged factors is another matrix. By default the ranks stand side by side, which is exact: two adapters of rank 8 make
one of rank 16. `--rank` re-factorises the sum to fewer, the best that so many can do (truncated SVD). An adapter at
half strength, which blends an expert with the base model, is `math=0.5` alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

ADAPTERS = Path(__file__).resolve().parent / "adapters"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
A, B = ".lora_A.weight", ".lora_B.weight"
# What else changes how factors become a change of the weights: none may be set.
VARIANTS = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")


class MergeError(Exception):
    """The adapters cannot be blended; the message says why."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank changes of one base model's weights."""

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # module → A (rank, in), B (out, rank), float32
    scale: float  # the change is scale · B·A
    config: Mapping[str, Any]  # as PEFT wrote it


def read_adapter(folder: Path) -> Adapter:
    """Read a plain LoRA adapter.

    Raises:
        MergeError: it cannot be read, or it is of a variety whose change is not scale · B·A.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MergeError(f"no adapter can be read from {folder}: {error}") from None
    if used := [name for name in VARIANTS if config.get(name)]:
        raise MergeError(f"{folder.name} is no plain LoRA adapter: {', '.join(used)}")
    factors = {}
    for name in weights:
        module = name.removesuffix(A)
        if module != name and module + B in weights:
            factors[module] = (weights[name].float(), weights[module + B].float())
    if not factors or 2 * len(factors) != len(weights):
        raise MergeError(f"{folder.name} holds other tensors than pairs of factors")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(factors, scale, config)


def merge(parts: Sequence[tuple[Adapter, float]], rank: int | None = None) -> Adapter:
    """Blend adapters of one base model.

    Args:
        parts: adapters, each with its weight; the weights need not sum to 1.
        rank: re-factorise to this many; None: the ranks side by side, which is exact.

    Returns:
        An adapter of scale 1.

    Raises:
        MergeError: no parts, other base models or modules, shapes that do not fit, or a weight that is no number.
    """
    if not parts:
        raise MergeError("nothing to blend")
    first, _ = parts[0]
    for adapter, weight in parts:
        if not math.isfinite(weight):
            raise MergeError(f"{weight} is no weight")
        if adapter.config.get("base_model_name_or_path") != first.config.get("base_model_name_or_path"):
            raise MergeError("the adapters stand on different base models")
        if outlines(adapter) != outlines(first):
            raise MergeError("the adapters change different modules, or shapes of them")
    factors = {}
    for module in first.factors:
        shares = [weighted(*adapter.factors[module], adapter.scale * weight) for adapter, weight in parts]
        factors[module] = (torch.cat([a for a, _ in shares]), torch.cat([b for _, b in shares], dim=1))
        if rank is not None:
            factors[module] = refactorised(*factors[module], rank)
    merged_rank = max(len(a) for a, _ in factors.values())
    config = {**first.config, "r": merged_rank, "lora_alpha": merged_rank, "use_rslora": False}
    return Adapter(factors, 1.0, config)


def outlines(adapter: Adapter) -> dict[str, tuple[int, int]]:
    """What an adapter changes: module → its outputs and inputs."""
    return {module: (b.shape[0], a.shape[1]) for module, (a, b) in adapter.factors.items()}


def weighted(a: torch.Tensor, b: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of weight · B·A. Both take a share of it, so that they stay of like size in bfloat16."""
    root = math.sqrt(abs(weight))
    return a * root, b * math.copysign(root, weight)


def refactorised(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the matrix of at most `rank` that is nearest to B·A (Eckart and Young 1936).

    Args:
        a: shape (r, in).
        b: shape (out, r).
        rank: of the result; more than r changes nothing.
    """
    # By way of the two small triangles: B·A itself, (out, in), would be a hundred times the work.
    q_out, r_out = torch.linalg.qr(b)
    q_in, r_in = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(r_out @ r_in.T)
    root = values[:rank].sqrt()
    return (root[:, None] * v[:rank]) @ q_in.T, q_out @ (u[:, :rank] * root)


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter of scale 1 as PEFT does, weights in bfloat16."""
    assert adapter.scale == 1.0, "its configuration says alpha = rank"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for module, (a, b) in adapter.factors.items():
        weights[module + A] = a.to(torch.bfloat16).contiguous()
        weights[module + B] = b.to(torch.bfloat16).contiguous()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(adapter.config, indent=2) + "\n", encoding="utf-8")


def part(text: str) -> tuple[Path, float]:
    """Read `NAME=WEIGHT` or `FOLDER=WEIGHT` from the command line."""
    name, equals, weight = text.rpartition("=")
    folder = Path(name) if "/" in name else ADAPTERS / name
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=WEIGHT, such as math=0.5")
    try:
        return folder, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {weight!r} is no number") from None


def main() -> int:
    """Run from the command line; 1 and one readable line when the adapters cannot be blended."""
    parser = argparse.ArgumentParser(prog="models/merge_adapters.py", description=__doc__.splitlines()[0])
    parser.add_argument("parts", type=part, nargs="+", metavar="ADAPTER=WEIGHT", help="such as math=0.5 coding=0.5")
    parser.add_argument("--rank", type=int, help="re-factorise to this rank (default: the sum of the ranks, exact)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the blend")
    options = parser.parse_args()
    if options.rank is not None and options.rank < 1:
        parser.error("--rank is at least 1")
    try:
        blend = merge([(read_adapter(folder), weight) for folder, weight in options.parts], options.rank)
    except MergeError as why:
        print(why, file=sys.stderr)
        return 1
    write_adapter(blend, options.out)
    print(f"{options.out}: rank {blend.config['r']}, {(options.out / WEIGHTS).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
