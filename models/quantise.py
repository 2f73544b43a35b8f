"""Make the int8 twin of the base model: smaller, and served by vLLM on a CPU as on a GPU.

Round to nearest, without calibration data: the weights of every linear layer become int8 with one scale per output
channel; activations are quantised while serving, with one scale per token. Embedding and head stay bf16. The result is
a compressed-tensors checkpoint (format `int-quantized`). A complete one is recognised by its stamp and left as it is.

An expert's twin (`--adapter`) is a checkpoint of its own, the adapter added to the weights before rounding: vLLM 0.32
serves no adapters over int8 weights on a CPU, where its kernel packs the weights away before the adapters look for them
(vllm-project/vllm#57503 is the same on other hardware).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment  # noqa: F401 - before torch
from prepare import DEFAULT_OUT as BASE
from prepare import STAMP, PrepareError, files_in, has_files, publish, say, sha256

if TYPE_CHECKING:  # torch takes seconds to import: only once there is something to do
    import torch

RECIPE = 1  # raised when this script makes something else of the same checkpoint
WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PLAIN = ("embed_tokens.weight", "lm_head.weight")  # no linear layers of the body: kept as they are
LARGEST = 127  # symmetric: -128 is not used
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
    "ignore": ["lm_head"],
}


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight to the nearest of 255 steps, spaced for each output channel by its largest weight.

    Args:
        weight: shape (out, in), floating point.

    Returns:
        int8 of the same shape, and scales, float32, shape (out, 1): their product is the weight again, to half a scale.

    Raises:
        ValueError: a weight is not finite.
    """
    import torch

    weight = weight.float()
    if not torch.isfinite(weight).all():
        raise ValueError("not finite")
    scale = weight.abs().amax(dim=1, keepdim=True) / LARGEST
    scale[scale == 0] = 1.0  # a channel of zeros
    return torch.round(weight / scale).clamp(-LARGEST, LARGEST).to(torch.int8), scale


def source_config(source: Path) -> dict[str, Any]:
    """Read the configuration of a checkpoint that can be quantised.

    Raises:
        PrepareError: there is none, it is damaged, quantised already or in several files.
    """
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise PrepareError(f"no checkpoint in {source}: make the base with python models/prepare.py") from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise PrepareError(f"{source / 'config.json'} is no JSON object: make the checkpoint again")
    if "quantization_config" in config:
        raise PrepareError(f"{source} is quantised already: start from its original")
    if not (source / WEIGHTS).is_file():
        raise PrepareError(f"{source} has no {WEIGHTS}: only checkpoints in one file are taken")
    return config


def checked_digest(source: Path) -> str:
    """The SHA-256 of the source's weights.

    Raises:
        PrepareError: it is not what the source's own stamp says.
    """
    digest = sha256(source / WEIGHTS)
    stamp = source / STAMP
    if stamp.is_file() and json.loads(stamp.read_text())["files"][WEIGHTS]["sha256"] != digest:
        raise PrepareError(f"{source / WEIGHTS} is damaged: delete {source} and run python models/prepare.py")
    return digest


def is_complete(out: Path, made_from: dict[str, str]) -> bool:
    """True when `out` holds every file its stamp lists, made by this recipe from weights of these SHA-256 digests."""
    try:
        stamp = json.loads((out / STAMP).read_text())
        return (stamp["recipe"], stamp["made_from"]) == (RECIPE, made_from) and has_files(out, stamp["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def quantise(source: Path, out: Path, adapter: Path | None = None) -> bool:
    """Make the twin of `source`, or of an adapter over it, in `out`; a reader never sees half of it.

    Returns:
        False when it was complete already.

    Raises:
        PrepareError: source or adapter is not what can be quantised.
    """
    config = source_config(source)
    made_from = {source.name: checked_digest(source)}
    if adapter:
        try:
            made_from[adapter.name] = sha256(adapter / ADAPTER_WEIGHTS)
        except OSError:
            raise PrepareError(f"no adapter in {adapter}: it has no {ADAPTER_WEIGHTS}") from None

    def make(folder: Path) -> None:
        write_weights(source, adapter, folder)
        for file in source.iterdir():
            if file.is_file() and file.name not in {WEIGHTS, STAMP, "config.json"}:
                shutil.copyfile(file, folder / file.name)
        twin = config | {"quantization_config": QUANTIZATION}
        (folder / "config.json").write_text(json.dumps(twin, indent=2) + "\n", encoding="utf-8")
        stamp = {"recipe": RECIPE, "made_from": made_from, "files": files_in(folder)}
        (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")

    return publish(out, make, lambda folder: is_complete(folder, made_from))


def changes_of(adapter: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to the base's weights, by their names, shape (out, in), float32.

    Raises:
        PrepareError: it is no plain LoRA adapter.
    """
    from merge_adapters import MergeError, read_adapter

    try:
        read = read_adapter(adapter)
    except MergeError as why:
        raise PrepareError(str(why)) from None
    return {
        f"{module.removeprefix('base_model.model.')}.weight": read.scale * b @ a
        for module, (a, b) in read.factors.items()
    }


def write_weights(source: Path, adapter: Path | None, out: Path) -> None:
    """Write the checkpoint's tensors, linear layers as int8 beside their scales.

    Raises:
        PrepareError: it is no safetensors file, a weight is not finite, there is no linear layer, or the adapter is
            for another model.
    """
    say("importing torch")
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    changes = changes_of(adapter) if adapter else {}
    tensors: dict[str, torch.Tensor] = {}
    layers = 0
    try:
        with safe_open(source / WEIGHTS, framework="pt") as checkpoint:
            names = sorted(checkpoint.keys())
            say(f"rounding {len(names)} tensors")
            for done, name in enumerate(names, start=1):
                tensor = checkpoint.get_tensor(name)
                if tensor.ndim == 2 and name.endswith(".weight") and not name.endswith(PLAIN):
                    if name in changes:
                        tensor = tensor.float() + changes.pop(name)
                    tensors[name], tensors[f"{name}_scale"] = rounded(tensor)
                    layers += 1
                else:
                    tensors[name] = tensor
                if done % 100 == 0:
                    say(f"{done} of {len(names)}")
    except SafetensorError as error:
        raise PrepareError(f"{source / WEIGHTS} cannot be read: {error}") from None
    except ValueError as error:
        raise PrepareError(f"{source / WEIGHTS}: {name} is {error}: make the checkpoint again") from None
    except RuntimeError:  # torch: sizes that do not add up
        changes[name] = tensor
    if changes:
        raise PrepareError(f"{adapter} is for another model than {source}: {next(iter(changes))} does not fit")
    if not layers:
        raise PrepareError(f"{source / WEIGHTS} has no linear layers to quantise")
    say("writing int8 safetensors")
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})


def main() -> int:
    """Run from the command line; 1 and one readable line when the twin cannot be made."""
    parser = argparse.ArgumentParser(
        prog="models/quantise.py",
        description="Make the int8 twin of a checkpoint, by default of the base model (156 MiB, 5 s). "
        "A complete one is left as it is.",
    )
    parser.add_argument("--model", type=Path, default=BASE, help="the checkpoint (default: models/base/…)")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter to add first: the twin is that expert's")
    parser.add_argument("--out", type=Path, help="folder of the twin (default: MODEL-int8 or MODEL-ADAPTER-int8)")
    options = parser.parse_args()
    source, adapter = options.model, options.adapter
    name = "-".join([source.name, *([adapter.name] if adapter else []), "int8"])
    out: Path = options.out or source.with_name(name)
    try:
        made = quantise(source, out, adapter)
    except PrepareError as why:
        print(why, file=sys.stderr)
        return 1
    say(f"the int8 twin {'is ready' if made else 'was ready'} in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
