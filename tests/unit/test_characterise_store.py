"""What a characterisation keeps on disk, and what it refuses before it starts."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.characterise.__main__ import Wrong, check, chosen, ladder_of
from benchmarks.characterise.climbing import Pace
from benchmarks.characterise.configurations import Configuration, real, simulated
from benchmarks.characterise.grid import Cell, cells
from benchmarks.characterise.meshes import environment, mesh_file
from benchmarks.characterise.store import NotKept, Store
from expertmesh_client.load.plan import PER_USER
from mesh_wire.settings import Mesh

ALL = [*simulated(5000), *real()]


def some(ladder: list[int] | None = None) -> list[Cell]:
    return list(cells(simulated(5000)[:2], ladder or [1, 10]))


def test_a_result_is_found_again_by_all_that_it_depends_on(tmp_path: Path) -> None:
    store, [cell, *_] = Store(tmp_path / "new"), some()
    assert store.read(cell) is None

    store.keep(cell, {"id": cell.id, "complete": True})

    assert store.read(some()[0]) == {"id": cell.id, "complete": True}
    for name, other in (("speed", 0.5), ("output_tokens", 7), ("skew", {"math": 1.0}), ("prompt_words", "5")):
        changed: Configuration = replace(cell.configuration, **{name: other})  # type: ignore[arg-type]  # one of its fields
        assert next(iter(cells([changed], [1]))).id != cell.id
    renamed = replace(cell.configuration, title="another title", ladder=(1,))
    assert next(iter(cells([renamed], [1]))).id == cell.id


def test_no_two_cells_of_the_grid_are_kept_in_one_place(tmp_path: Path) -> None:
    grid = list(cells(ALL, None))
    assert len({Store(tmp_path).path(cell) for cell in grid}) == len(grid)


def test_results_of_another_grid_are_counted_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for cell in some([1, 10]):
        store.keep(cell, {"id": cell.id, "complete": True})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    other = some([10, 50])

    assert store.others(other) == len(some([1]))
    assert [store.read(cell) is not None for cell in other] == [cell.users == 10 for cell in other]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_no_result_counts_as_none(tmp_path: Path) -> None:
    store, [cell, *_] = Store(tmp_path), some()
    for content in ("", "{", '{"id": "another"}'):
        store.path(cell).write_text(content)
        assert store.read(cell) is None


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, [cell, *_] = Store(tmp_path), some()
    store.keep(cell, {"id": cell.id, "complete": False})
    write = Path.write_text

    def full(path: Path, text: str, **more: str) -> int:
        write(path, text[:5], **more)  # as much as there was room for
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotKept, match="No space left on device"):
        store.keep(cell, {"id": cell.id, "complete": True})
    monkeypatch.undo()

    assert store.read(cell) == {"id": cell.id, "complete": False}
    assert list(tmp_path.iterdir()) == [store.path(cell)]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotKept, match="file/below: Not a directory"):
        Store(tmp_path / "file/below")


def test_a_ladder_beyond_the_file_descriptors_is_refused_before_it_starts() -> None:
    grid = some([1, 1000])

    check(grid, 4, 256)
    check(grid, PER_USER, 4096)
    with pytest.raises(Wrong, match="1000 users: 1000 connections need about 2064 file descriptors"):
        check(grid, PER_USER, 1024)


@pytest.mark.parametrize("written", ["ten", "1,,2", "0,1", "-5", "1.5"])
def test_what_is_no_ladder_is_refused_by_its_words(written: str) -> None:
    with pytest.raises(Wrong, match="--users"):
        ladder_of(written)


def test_a_ladder_is_climbed_from_below_and_each_rung_once() -> None:
    assert ladder_of("100,1,10,10") == [1, 10, 100]
    assert ladder_of("") is None


def test_configurations_are_taken_by_name_and_the_unknown_is_named() -> None:
    assert [each.key for each in chosen(ALL, "cpu-two,hop")] == ["hop", "cpu-two"]
    with pytest.raises(Wrong, match="there is no nothing; there are hop"):
        chosen(ALL, "nothing,hop")


@pytest.mark.parametrize("configuration", ALL, ids=lambda each: each.key)
def test_every_configuration_makes_a_mesh_file_that_is_right(configuration: Configuration) -> None:
    mesh = Mesh.model_validate(mesh_file(configuration))

    assert len(mesh.experts) == len(configuration.engines)
    assert all(expert.simulated is None or expert.simulated.speed == configuration.speed for expert in mesh.experts)
    assert mesh.router.spill_ms_per_point is None  # as in the paper, only the content decides
    assert configuration.kind == "simulated" or configuration.speed == 1


def test_nothing_of_the_surrounding_settings_reaches_what_is_measured() -> None:
    ours = {"PATH": "/bin", "ROUTER_WORKERS": "4", "EXPERT_LISTEN": "x:1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
    assert environment(ALL[0], ours) == {"PATH": "/bin", "OTEL_SDK_DISABLED": "true"}


def test_the_time_left_follows_how_long_things_take() -> None:
    pace = Pace(100.0)
    assert pace.left_s == 100.0

    pace.done(20.0, 40.0)

    assert pace.left_s == 160.0
    pace.done(90.0, 90.0)
    assert pace.left_s == 0.0
