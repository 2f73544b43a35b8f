"""`python -m benchmarks.characterise` as a user runs it, on a small grid of simulated engines."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.characterise.climbing import climb_grid
from benchmarks.characterise.configurations import simulated
from benchmarks.characterise.grid import Cell, cells
from benchmarks.characterise.rows import row_of
from benchmarks.characterise.store import Store
from expertmesh_client.load.crew import Progress

pytestmark = pytest.mark.timeout(400)  # processes start, on a machine that may be busy
KEY, SECONDS = "70b-fp8-tp8", 0.5  # one engine, whose router reads no prompt


class Silent:
    """Is told how the grid stands, and ends it once its load has lasted for a while."""

    def __init__(self, stop: asyncio.Event | None = None) -> None:
        self.cells: list[str] = []
        self._stop = stop

    def cell(self, words: str, place: str, left_s: float) -> None:
        self.cells.append(words)

    def progress(self, progress: Progress) -> None:
        if self._stop is not None and progress.elapsed_s > progress.rung.warm_s + 0.5:
            self._stop.set()


def grid(ladder: list[int], seconds: float = SECONDS) -> list[Cell]:
    return list(cells([each for each in simulated(5000) if each.key == KEY], ladder, seconds=seconds))


async def climbed(these: list[Cell], store: Store, stop: asyncio.Event, show: Silent) -> None:
    failed = await climb_grid(these, store, show, connections=1, stop=stop, until=None)
    assert not failed


async def test_a_load_that_is_interrupted_is_kept_and_marked_and_measured_again(tmp_path: Path) -> None:
    store, stop, [cell] = Store(tmp_path), asyncio.Event(), grid([2], seconds=300)

    await climbed([cell], store, stop, Silent(stop))

    told = store.read(cell)
    assert told is not None
    assert not told["complete"]
    assert 0 < told["result"]["window_s"] < 300
    show = Silent()
    stop.set()
    await climbed([cell], store, stop, show)
    assert show.cells == []  # stopped before it began, and it was not taken for done
    assert row_of(told).complete is False


async def test_a_second_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    store, show = Store(tmp_path), Silent()
    await climbed(grid([1]), store, asyncio.Event(), show)
    first = store.path(grid([1])[0])
    before = first.read_bytes()

    await climbed(grid([1, 3]), store, asyncio.Event(), show)
    await climbed(grid([1, 3]), store, asyncio.Event(), show)

    assert first.read_bytes() == before
    assert [words.rpartition(", ")[2] for words in show.cells if "starting" not in words] == ["1 user", "3 users"]
    for cell in grid([1, 3]):
        told = store.read(cell)
        assert told is not None
        row = row_of(told)
        assert row.complete
        assert row.tokens_per_s == pytest.approx(told["result"]["tokens_per_s"] / cell.configuration.speed)
        assert set(row.load) == {"general-0"}
        assert {"admit", "select", "whole"} <= row.stages_s.keys()


async def test_ctrl_c_ends_it_with_a_report_of_what_there_is(tmp_path: Path) -> None:
    await climbed(grid([1]), Store(tmp_path / "results"), asyncio.Event(), Silent())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.characterise", "--simulated", "--only", KEY, "--users", "1,500"),
        *("--seconds", str(SECONDS), "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "200"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = ""
    while "starting" not in said:
        line = await process.stderr.readline()
        assert line, said
        said += line.decode()

    process.send_signal(signal.SIGINT)
    said += (await process.stderr.read()).decode()

    assert await process.wait() == 130, said
    assert "1 of 2 loads (incomplete)" in said
    assert "Traceback" not in said
    told = json.loads((tmp_path / "out/characterisation.json").read_text(encoding="utf-8"))
    assert told["missing"] == ["one 70B FP8, TP 8"]
    assert "INCOMPLETE" in (tmp_path / "out/characterisation.html").read_text(encoding="utf-8")
