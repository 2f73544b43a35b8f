"""What a reload takes, what it refuses, and when it is due."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mesh_wire.settings import Mesh, RouterSection
from router_svc.classifying.classification import Classifier
from router_svc.reloading.files import Watch, stamps
from router_svc.reloading.loading import TRIAL, latest, trial
from router_svc.reloading.plan import LIVE, experts_of, left_for_restart, merged, refusals
from router_svc.reloading.source import Source
from router_svc.strategies.artefact import MANIFEST, ArtefactError, save
from router_svc.strategies.clusters import Clusters
from support.corpora import small_artefact
from support.reloading import write_mesh

TARGETS = ("127.0.0.1:1",)


def mesh(**router: Any) -> Mesh:
    return Mesh.model_validate({"router": {"targets": TARGETS, "strategy": "random", **router}})


def test_every_field_of_the_router_is_taken_or_left_or_refused_by_name() -> None:
    for name in RouterSection.model_fields:
        changed = mesh().model_copy(update={"router": mesh().router.model_copy(update={name: object()})})
        taken = merged(mesh(), changed) != mesh()
        assert taken == (name in LIVE)
        said = [*left_for_restart(mesh(), changed), *refusals(mesh(), changed)]
        assert taken == (not said)
        assert all(f"router.{name}" in line for line in said)


def test_the_port_that_is_served_stays() -> None:
    serving = mesh(listen="127.0.0.1:4711")
    assert merged(serving, mesh(listen="127.0.0.1:0", threshold=0.7)).router.listen == "127.0.0.1:4711"
    assert left_for_restart(mesh(listen="127.0.0.1:0"), mesh(listen="127.0.0.1:0")) == []


def test_controls_choose_among_what_the_file_names_or_else_among_what_is_found() -> None:
    assert experts_of(mesh(), ["b", "a"]) == ["a", "b"]
    assert experts_of(mesh(), []) == ["general"]
    assert experts_of(mesh(strategy="pinned", pinned="law"), ["a"]) == ["a", "law"]


class Rows:
    """Scores every prompt by one row."""

    name, experts, generation = "rows", ("a", "b"), "1"

    def __init__(self, *row: float) -> None:
        self._row = row

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        if not self._row:
            raise ZeroDivisionError("by nothing\nat all")
        return np.array([self._row] * len(prompts), dtype=np.float32)


@pytest.mark.parametrize("row", [(np.nan, 1), (np.inf, 0), (0.4, 0.4), (-0.5, 1.5), (1,), (0.2, 0.3, 0.5), ()])
def test_scores_that_are_no_probabilities_fail_the_trial(row: tuple[float, ...]) -> None:
    with pytest.raises(ArtefactError, match="trial prompt") as raised:
        trial(Rows(*row))
    assert "\n" not in str(raised.value)


def test_a_fitted_strategy_passes_the_trial() -> None:
    trial(Rows(0.25, 0.75))
    trial(Clusters(small_artefact()))
    assert "" in TRIAL


A, B = Path("mesh.yaml"), Path("artefact") / MANIFEST
OTHER = Path("artefact/tensors")


def test_a_change_is_due_once_it_rests() -> None:
    watch = Watch({A: (1, 1, 1), B: (1, 1, 1)})
    assert not watch.due({A: (1, 1, 1), B: (1, 1, 1)})
    assert not watch.due({A: (2, 1, 1), B: (1, 1, 1)})
    assert not watch.due({A: (3, 1, 1), B: (1, 1, 1)})
    assert watch.due({A: (3, 1, 1), B: (1, 1, 1)})
    watch.tried({A: (3, 1, 1), B: (1, 1, 1)}, failed=False)
    assert not watch.due({A: (3, 1, 1), B: (1, 1, 1)})


def test_other_files_of_an_artefact_are_no_reason_unless_the_last_reload_failed() -> None:
    before, after = {A: None, B: None, OTHER: (1, 1, 1)}, {A: None, B: None, OTHER: (2, 1, 1)}
    watch = Watch(before)
    watch.due(after)
    assert not watch.due(after)
    watch.tried(before, failed=True)
    assert watch.due(after)
    watch.tried(after, failed=True)
    assert not watch.due(after), "the same is not tried twice"


looks = st.lists(st.fixed_dictionaries({A: st.integers(0, 2), B: st.integers(0, 2), OTHER: st.integers(0, 2)}))


@given(looks, st.booleans())
def test_whatever_is_seen_a_change_that_stays_is_due_at_the_second_look_and_then_no_more(
    seen: list[dict[Path, int]], failed: bool
) -> None:
    watch = Watch({A: (0, 0, 0), B: (0, 0, 0), OTHER: (0, 0, 0)})
    for look in seen:
        found = {path: (at, at, at) for path, at in look.items()}
        if watch.due(found):
            watch.tried(found, failed=failed)
    last = {A: (9, 9, 9), B: (0, 0, 0), OTHER: (0, 0, 0)}
    assert [watch.due(last), watch.due(last)] == [False, True]
    watch.tried(last, failed=failed)
    assert not watch.due(last)


def test_stamps_tell_of_every_file_of_an_artefact_and_of_those_that_it_names(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    assert stamps(config, tmp_path / "none") == {config: None, tmp_path / "none" / MANIFEST: None}
    save(tmp_path / "part", small_artefact())
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / MANIFEST).write_text('{"settings": {"lexical": {"folder": "../part"}, "margin": 0.5}}')

    found = stamps(config, whole)

    assert list(found)[:2] == [config, whole / MANIFEST]
    assert {path.name for path in found if path.parent.name == "part"} == {MANIFEST, "tensors.safetensors", "words.txt"}


def test_files_that_alone_are_no_reason_are_only_looked_at_when_there_is_one(tmp_path: Path) -> None:
    config, artefact = tmp_path / "mesh.yaml", tmp_path / "artefact"
    save(artefact, small_artefact())
    read = stamps(config, artefact)
    watch = Watch(read)
    (artefact / "words.txt").write_text("others")
    assert watch.look(config, artefact) == read, "its manifest is as it was read"

    watch.tried(read, failed=True)
    assert watch.look(config, artefact) == stamps(config, artefact) != read, "any change is a reason to try again"

    watch.tried(read, failed=False)
    config.write_text("router: {}")
    assert watch.look(config, artefact) == stamps(config, artefact), "there is a reason, and all must rest"


@pytest.mark.parametrize(
    "content", ["", "7", "[]", '{"settings": 7}', '{"settings": {"a": {"folder": 7}}}', "[" * 10**5]
)
def test_a_manifest_that_makes_no_sense_is_no_trouble_to_the_watch(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    assert len(stamps(tmp_path / "mesh.yaml", tmp_path)) == 2


def test_a_worker_that_starts_later_begins_with_what_the_file_says_then_if_it_can_be_used(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    section = {"listen": "127.0.0.1:0", "targets": TARGETS, "strategy": "random"}
    write_mesh(config, section)
    source = Source.read(config, {})
    serving = source.mesh.model_copy(update={"router": source.mesh.router.model_copy(update={"listen": "a:1"})})
    assert latest(source, serving, {}) == (serving, source.stamp)

    write_mesh(config, {**section, "threshold": 0.9})
    now, stamp = latest(source, serving, {})
    assert (now.router.threshold, now.router.listen) == (0.9, "a:1")
    assert stamp != source.stamp

    write_mesh(config, {**section, "threshold": 9})
    assert latest(source, serving, {}) == (serving, source.stamp)


async def test_prompts_that_came_before_a_swap_are_scored_by_what_served_then() -> None:
    old, new = Rows(1, 0), Rows(0, 1)
    new.generation = "2"
    classifier = Classifier(old)
    before = asyncio.create_task(classifier.scored("hm"))
    await asyncio.sleep(0)  # it waits for the turn in which its batch is scored

    classifier.swap(new)

    after = await classifier.scored("hm")
    assert ((await before).generation, after.generation) == ("1", "2")
    assert ((await before).scores["a"], after.scores["a"]) == (1, 0)
