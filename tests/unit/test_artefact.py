"""Artefacts: what is saved is loaded, and nothing else is."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as tensors_to_bytes

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import MANIFEST, TENSORS, WORDS, ArtefactError, load, save
from support.corpora import small_artefact


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(folder, small_artefact())
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and sign it again, as somebody who writes artefacts wrongly would."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    manifest["id"] = artefacts._digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def put(folder: Path, name: str, content: bytes, **manifest: Any) -> None:
    """Replace a file and list it correctly."""
    (folder / name).write_bytes(content)
    listed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, lambda old: (old["files"].update({name: listed}), old.update(manifest)))


def test_what_was_saved_is_loaded(saved: Path) -> None:
    loaded, original = load(saved), small_artefact()

    assert (loaded.strategy, loaded.experts, loaded.words) == (original.strategy, original.experts, original.words)
    assert (loaded.settings, loaded.mapping) == (original.settings, original.mapping)
    assert loaded.tensors.keys() == original.tensors.keys()
    assert all(np.array_equal(loaded.tensors[name], original.tensors[name]) for name in loaded.tensors)


def test_the_id_names_the_content_not_the_moment(saved: Path, tmp_path: Path) -> None:
    assert save(tmp_path, small_artefact()) == load(saved).id
    assert save(tmp_path, replace(small_artefact(), experts=tuple("abcde"))) != load(saved).id


def test_saving_leaves_the_model_card_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("card")

    save(tmp_path, small_artefact())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", MANIFEST, TENSORS, WORDS]


def test_further_files_are_saved_checked_and_loaded_and_words_and_tensors_may_be_none(tmp_path: Path) -> None:
    files = {"model.onnx": b"\0\1", "tokenizer.json": b"{}"}

    save(tmp_path, replace(small_artefact(), words=(), tensors={}, files=files))

    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, *files]
    loaded = load(tmp_path)
    assert (loaded.files, loaded.words, loaded.tensors) == (files, (), {})
    (tmp_path / "model.onnx").write_bytes(b"\0\2")
    with pytest.raises(ArtefactError, match=r"model\.onnx: was changed after it was written"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["", "../above", "sub/file", ".hidden", MANIFEST, TENSORS, "line\nbreak"])
def test_a_further_file_has_a_plain_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a further file"):
        save(tmp_path, replace(small_artefact(), files={name: b""}))

    assert not list(tmp_path.iterdir())


@given(st.data())
def test_a_file_with_changed_or_missing_bytes_is_refused_or_means_the_same(saved: Path, data: st.DataObject) -> None:
    folder = saved.parent / "mutated"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    path = folder / data.draw(st.sampled_from([MANIFEST, TENSORS, WORDS]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="truncate"):
        del content[at:]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)

    try:
        outcome = load(folder).id
    except ArtefactError as refusal:
        outcome = str(refusal)

    assert outcome == load(saved).id or (outcome.startswith(f"{path}: ") and "\n" not in outcome)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_a_foreign_manifest_is_refused(saved: Path, content: bytes) -> None:
    folder = saved.parent / "foreign"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    (folder / MANIFEST).write_bytes(content)

    with pytest.raises(ArtefactError, match=MANIFEST):
        load(folder)


NAN = json.dumps({"experts": float("nan")})


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", NAN, "{}", '"pickle"', ""])
def test_json_that_python_chokes_on_is_refused(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)

    with pytest.raises(ArtefactError, match=MANIFEST):
        load(copy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update(version=1), "has format version 1; this router reads 2"),
        (lambda m: m.update(format="onnx"), "is not the manifest of a router artefact"),
        (lambda m: m.pop("mapping"), "has no 'mapping'"),
        (lambda m: m.update(settings=[]), "has no 'settings', or of another type than dict"),
        (lambda m: m.update(experts=["a", "a"]), "names its experts wrongly"),
        (lambda m: m.update(experts=[3]), "names its experts wrongly"),
        (lambda m: m["files"].update({"../secret": {}}), "lists '../secret', which is not the name of a file"),
        (lambda m: m["files"].update({MANIFEST: {}}), f"lists '{MANIFEST}', which is not the name of a file"),
        (lambda m: m["files"].update({WORDS: 3}), f"lists '{WORDS}', which is not the name of a file with its size"),
        (lambda m: m["files"][WORDS].update(bytes="many"), "where the manifest says 'many'"),
        (lambda m: m["files"][WORDS].update(sha256=None), "its SHA-256 is not the manifest's"),
        (lambda m: m["tensors"].update(centres=[1, 2]), "where the manifest says"),
    ],
)
def test_a_manifest_that_is_wrong_although_signed_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    rewrite(copy, change)

    with pytest.raises(ArtefactError, match=problem):
        load(copy)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        (b"\x80\x04K\x01.", "not a safetensors file"),
        (b"", "not a safetensors file"),
        (tensors_to_bytes({"a": np.array([[np.nan]], np.float32)}), "a value in a that is not finite"),
        (tensors_to_bytes({"a": np.array([[1]], np.float64)}), "holds a as float64"),
        (tensors_to_bytes({"a": np.zeros((2, 2), np.float32)}), "holds tensors of shapes"),
    ],
)
def test_tensors_that_are_foreign_or_not_finite_are_refused(copy: Path, tensors: bytes, problem: str) -> None:
    put(copy, TENSORS, tensors, tensors={"a": [1, 1]})

    with pytest.raises(ArtefactError, match=problem):
        load(copy)


@pytest.mark.parametrize(("words", "problem"), [(b"one\none\n", "repeats a word"), (b"\xff\n", "is not UTF-8")])
def test_words_that_are_no_vocabulary_are_refused(copy: Path, words: bytes, problem: str) -> None:
    put(copy, WORDS, words)

    with pytest.raises(ArtefactError, match=problem):
        load(copy)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, WORDS])
def test_a_missing_file_or_a_folder_in_its_place_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtefactError, match="cannot be read: No such file"):
        load(copy)

    (copy / name).mkdir()
    with pytest.raises(ArtefactError, match="cannot be read: Is a directory"):
        load(copy)
