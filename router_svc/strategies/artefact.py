"""What a fit leaves behind and a router loads: data only, checked before use.

A folder of

- `manifest.json`: format and version, strategy, experts, settings, provenance, mapping, and of each file its size and
  SHA-256; `id` is the SHA-256 of all that (all but `created`), so it names the content.
- `tensors.safetensors`, where there are any: float32 arrays.
- `words.txt`, where there are any: the vocabulary in UTF-8, a word a line, in the order of the tensors' rows.
- further files that a strategy brings along, such as `model.onnx` and `tokenizer.json`.

A file that the manifest does not list, such as a model card, is never read.

Nothing executable is ever loaded. Whatever is wrong with an artefact, `load` raises ArtefactError and nothing else.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes
from safetensors.numpy import save as tensors_to_bytes

FORMAT = "expertmesh.router-artefact"
VERSION = 2
MANIFEST, TENSORS, WORDS = "manifest.json", "tensors.safetensors", "words.txt"
UNNAMED = ("id", "created")  # what the id does not cover
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a file's name: no path, nothing hidden

Json = dict[str, Any]


class ArtefactError(ValueError):
    """An artefact that cannot be used. The message is one line: the file, then the problem."""


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """A fitted strategy."""

    strategy: str
    experts: tuple[str, ...]  # columns of the scores; empty while the clusters have no mapping
    words: tuple[str, ...]
    tensors: Mapping[str, NDArray[np.float32]]  # finite
    settings: Json  # how it was fitted: recipe, seeds, sizes
    provenance: Json  # from what: corpus by name and hash, label counts, versions of the libraries
    mapping: Json  # how clusters came to their experts, and each cluster's size and telling words
    files: Mapping[str, bytes] = field(default_factory=dict)  # further ones by name
    id: str = ""  # 12 hexadecimal digits; known once saved
    created: str = ""  # ISO 8601; known once saved
    source: str = "artefact"  # the folder, for messages


def save(folder: Path, artefact: Artefact) -> str:
    """Write an artefact, the manifest last; other files in the folder stay. Returns its id.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a further file has a name that `load` would refuse, or one that is taken.
    """
    for name in artefact.files:
        if not PLAIN.fullmatch(name) or name in (MANIFEST, TENSORS, WORDS):
            raise ValueError(f"{name!r} cannot be the name of a further file")
    tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in artefact.tensors.items()}
    contents = dict(artefact.files)
    if tensors:
        contents[TENSORS] = tensors_to_bytes(tensors)
    if artefact.words:
        contents[WORDS] = "".join(f"{word}\n" for word in artefact.words).encode()
    manifest: Json = {
        "format": FORMAT,
        "version": VERSION,
        "strategy": artefact.strategy,
        "experts": list(artefact.experts),
        "settings": artefact.settings,
        "provenance": artefact.provenance,
        "mapping": artefact.mapping,
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    manifest["id"] = _digest(manifest)
    manifest["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    folder.mkdir(parents=True, exist_ok=True)
    contents[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    for name, content in contents.items():
        beside = folder / f".{name}.new"
        beside.write_bytes(content)
        os.replace(beside, folder / name)
    return _short(manifest["id"])


def load(folder: Path) -> Artefact:
    """Read and check an artefact.

    Raises:
        ArtefactError: a file is missing, truncated, changed or foreign, or a value is not finite.
    """
    manifest = _manifest(folder / MANIFEST)
    content = {name: _checked(folder / name, listed) for name, listed in manifest["files"].items()}
    tensors, words = content.pop(TENSORS, None), content.pop(WORDS, b"")
    return Artefact(
        strategy=manifest["strategy"],
        experts=tuple(manifest["experts"]),
        words=_words(folder / WORDS, words),
        tensors=_tensors(folder / TENSORS, tensors, manifest["tensors"]),
        settings=manifest["settings"],
        provenance=manifest["provenance"],
        mapping=manifest["mapping"],
        files=content,
        id=_short(manifest["id"]),
        created=str(manifest.get("created", "")),
        source=str(folder),
    )


def provenance_of(folder: Path) -> tuple[str, Json]:
    """Return an artefact's strategy and provenance; its files are not read.

    Raises:
        ArtefactError: the manifest cannot be used.
    """
    manifest = _manifest(folder / MANIFEST)
    return manifest["strategy"], manifest["provenance"]


def _manifest(path: Path) -> Json:
    """Return the manifest, its shape and its own hash checked."""
    content = _read(path)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8; nested without end
        _refuse(path, "is not valid JSON")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(path, "is not the manifest of a router artefact")
    if manifest.get("version") != VERSION:
        _refuse(path, f"has format version {manifest.get('version')!r}; this router reads {VERSION}")
    try:
        digest = _digest(manifest)
    except (ValueError, RecursionError):  # a number beyond Python's limit for texts
        _refuse(path, "holds a value that cannot be hashed")
    if manifest.get("id") != digest:
        _refuse(path, "was changed after it was written: its hash is not its id")
    kinds = {"strategy": str, "experts": list} | dict.fromkeys(
        ("settings", "provenance", "mapping", "tensors", "files"), dict
    )
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            _refuse(path, f"has no {key!r}, or of another type than {kind.__name__}")
    experts = manifest["experts"]
    if not all(isinstance(expert, str) and expert for expert in experts) or len(set(experts)) != len(experts):
        _refuse(path, "names its experts wrongly: unique texts are needed")
    for name, listed in manifest["files"].items():
        if not PLAIN.fullmatch(name) or name == MANIFEST or not isinstance(listed, dict):
            _refuse(path, f"lists {name!r}, which is not the name of a file with its size and hash")
    return manifest


def _checked(path: Path, listed: Json) -> bytes:
    """Return a file's content, which has the size and the hash that the manifest lists."""
    content = _read(path)
    if len(content) != listed.get("bytes"):
        _refuse(path, f"has {len(content)} bytes where the manifest says {listed.get('bytes')!r}")
    if hashlib.sha256(content).hexdigest() != listed.get("sha256"):
        _refuse(path, "was changed after it was written: its SHA-256 is not the manifest's")
    return content


def _words(path: Path, content: bytes) -> tuple[str, ...]:
    """Return the vocabulary, which has no word twice."""
    try:
        words = tuple(content.decode().split("\n")[:-1])
    except UnicodeDecodeError:
        _refuse(path, "is not UTF-8")
    if len(set(words)) != len(words):
        _refuse(path, "repeats a word")
    return words


def _tensors(path: Path, content: bytes | None, listed: Json) -> dict[str, NDArray[np.float32]]:
    """Return the tensors, which are float32, finite and of the shapes that the manifest lists."""
    try:
        tensors = {} if content is None else tensors_from_bytes(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # the last two: a type that numpy lacks
        _refuse(path, f"is not a safetensors file that numpy can hold: {error}")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != listed:
        _refuse(path, f"holds tensors of shapes {shapes} where the manifest says {listed}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            _refuse(path, f"holds {name} as {tensor.dtype}, not float32")
        if not np.isfinite(tensor).all():
            _refuse(path, f"holds a value in {name} that is not finite")
    return tensors


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null in the path
        _refuse(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _digest(manifest: Json) -> str:
    named = {key: value for key, value in manifest.items() if key not in UNNAMED}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _short(digest: str) -> str:
    return digest[:12]


def _refuse(path: Path, problem: str) -> Never:
    raise ArtefactError(" ".join(f"{path}: {problem}".split())) from None
