"""The measurements themselves: what is measured, how it is counted, and that the guide names them all."""

import re
from pathlib import Path

import pytest

from benchmarks.data_plane.figures import row_of
from benchmarks.data_plane.loads import FULL, IN_STEP, NAMES, QUICK, Timing, parse
from benchmarks.data_plane.measure import Cell
from benchmarks.data_plane.ways import WAYS
from benchmarks.many_streams import per_stream
from benchmarks.run import scripts

GUIDE = Path(__file__).parents[2] / "benchmarks" / "README.md"
MODULE = re.compile(r"`python -m benchmarks\.(\w+)")


def test_the_guide_names_every_measurement_and_no_other() -> None:
    assert set(MODULE.findall(GUIDE.read_text(encoding="utf-8"))) - {"run"} == scripts().keys()


@pytest.mark.parametrize(
    ("name", "streams", "rate", "engines"),
    [("1x20", 1, 20.0, 1), ("1000x20", 1000, 20.0, 4), ("1000x20@1", 1000, 20.0, 1), ("32x0.5", 32, 0.5, 1)],
)
def test_a_load_says_its_streams_its_rate_and_its_engines(name: str, streams: int, rate: float, engines: int) -> None:
    load = parse(name)
    assert (load.streams, load.rate, load.replicas(4)) == (streams, rate, engines)


@pytest.mark.parametrize("name", ["", "x", "0x20", "20x0", "20x20@0", "20x20@", "-1x2", "slow"])
def test_what_is_no_load_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        parse(name)


@pytest.mark.parametrize(("timing", "most_s"), [(FULL, 500), (QUICK, 150)], ids=["full", "quick"])
def test_the_cells_of_a_whole_run_leave_time_for_starts(timing: Timing, most_s: float) -> None:
    loads = [parse(name) for name in NAMES]
    cells_s = sum(timing.rounds * timing.cell_s(load) for load in loads for way in WAYS if way.under(load))
    assert cells_s <= most_s


def test_one_table_has_every_way_under_every_steady_load() -> None:
    everywhere = {"direct", "envoy", "naive", "generate", "session", "route+direct"}
    for name in set(NAMES) - {"decisions", IN_STEP}:
        assert everywhere <= {way.name for way in WAYS if way.under(parse(name))}


def test_decisions_are_counted_one_by_one_though_many_stand_in_a_message() -> None:
    cell = Cell(window_s=2.0, requests=100, tokens=1600, deltas=1600, middle_s=1.6)
    row = row_of(parse("decisions"), "RouteSession, 16", [cell], [])
    assert row["us_per_decision"] == pytest.approx(1000)
    assert row["decisions_per_s"] == pytest.approx(800)


def test_a_generator_that_was_the_limit_is_named() -> None:
    cell = Cell(window_s=1, tokens=9, deltas=9, due=9, middle_s=0.5, backend_s=0.5, client_s=0.45, gaps_s=[0.05])
    [remark] = row_of(parse("32x100"), "session", [cell], [])["remarks"]
    assert "generator saturated" in remark


def test_what_a_stream_weighs_is_told_over_all_stages_and_within_each() -> None:
    rows = [{"streams": streams, "memory_mb": 50 + streams / 100} for streams in (0, 1000, 2000, 4000)]
    found = per_stream([*rows, {"streams": "all left", "memory_mb": 60.0}])
    assert found == {"kb_per_stream": 10.0, "kb_per_stream_by_stage": [10.0, 10.0, 10.0]}
