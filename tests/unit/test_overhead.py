"""The gate on overhead: what it concludes from rounds, and that noise is no regression. Nothing is measured here."""

import math
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.overhead.__main__ import command, planted
from benchmarks.overhead.baseline import FOLDER, Baseline, NoBaseline, file_of
from benchmarks.overhead.gate import FEWEST, enough, outcome, rows_of
from benchmarks.overhead.judging import Verdict, change, interval
from benchmarks.overhead.rounds import ALL, HOPS, Round, Wave

ROOT = Path(__file__).parents[2]
US = {"client": 40.0, "router": 60.0, "expert": 70.0}  # CPU per token
SANE = st.floats(1e-6, 1e6)
ROUNDS = 60
FEW = 20  # of 60 rounds, fewer than lie outside an interval at either end


def a_round(times: Mapping[str, float] | None = None, *, machine: float = 1.0) -> Round:
    """Return a round in which some hops took so many times what they take, on a machine so many times as slow."""
    cost = {hop: machine * us * (times or {}).get(hop, 1.0) for hop, us in US.items()}
    return {
        way: Wave(tokens=100, unit_s=machine * 1e-3, cpu_s={hop: cost[hop] * 100e-6 for hop in hops})
        for way, hops in HOPS.items()
    }


BASELINE = Baseline.of([a_round()] * ROUNDS, {})


@given(st.lists(SANE, min_size=1, max_size=200))
def test_the_median_of_the_rounds_lies_in_its_interval(values: list[float]) -> None:
    low, high = interval(values)
    assert low <= median(values) <= high
    assert {low, high} <= {*values, -math.inf, math.inf}


@given(st.lists(SANE, min_size=8, max_size=100))
def test_more_confidence_takes_a_wider_interval(values: list[float]) -> None:
    wide, narrow = interval(values, 0.99), interval(values, 0.8)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_the_interval_is_that_of_the_binomial_tables() -> None:
    assert interval(range(1, 61), 0.95) == (22, 39)  # n = 60: the 22nd and the 39th
    assert interval(range(1, 21), 0.99) == (4, 17)
    assert interval(range(1, 8), 0.99) == (-math.inf, math.inf)  # 2 / 2^7 is more than one in a hundred


@given(st.lists(st.floats(0.92, 1.08), min_size=ROUNDS, max_size=ROUNDS), st.lists(SANE, max_size=FEW))
def test_a_fifth_more_is_found_however_wild_some_rounds_are(noise: list[float], wild: list[float]) -> None:
    values = [1.2 * one for one in noise[len(wild) :]] + wild
    assert change(values, 1.0, 0.1).verdict is Verdict.WORSE


@given(st.lists(st.floats(0.92, 1.08), min_size=ROUNDS, max_size=ROUNDS), st.lists(SANE, max_size=FEW))
def test_noise_is_no_regression_however_wild_some_rounds_are(noise: list[float], wild: list[float]) -> None:
    assert change(noise[len(wild) :] + wild, 1.0, 0.1).verdict is Verdict.SAME


@given(st.lists(SANE, max_size=5))
def test_a_handful_of_rounds_tells_nothing(values: list[float]) -> None:
    if values:
        assert change(values, 1.0, 0.1).verdict is Verdict.UNSURE


def test_noise_such_as_a_busy_machine_has_neither_hides_a_fifth_nor_makes_one() -> None:
    draw = random.Random(0)  # two rounds of three within 12 %, and one in ten at twice what it should be
    runs = [[draw.lognormvariate(0, 0.12) * draw.choice([1] * 9 + [2]) for _ in range(ROUNDS)] for _ in range(200)]
    planted_in = [change([1.2 * one for one in run], 1.0, 0.1).verdict for run in runs]
    assert planted_in.count(Verdict.WORSE) >= 190
    assert {change(run, 1.0, 0.1).verdict for run in runs} <= {Verdict.SAME, Verdict.UNSURE}


@given(st.lists(st.floats(0.2, 5.0), min_size=FEWEST, max_size=FEWEST))
def test_a_machine_that_is_slower_at_times_changes_nothing(machines: list[float]) -> None:
    rows = rows_of([a_round(machine=machine) for machine in machines], BASELINE, 0.1)
    assert all(row.change.middle == pytest.approx(0) for row in rows)
    assert outcome(rows) is Verdict.SAME


@pytest.mark.parametrize("hop", US)
def test_the_hop_that_became_slower_is_named_and_no_other(hop: str) -> None:
    rows = rows_of([a_round({hop: 1.2})] * FEWEST, BASELINE, 0.1)
    assert outcome(rows) is Verdict.WORSE
    assert {row.hop for row in rows if row.change.verdict is Verdict.WORSE} == {hop}
    assert {row.way for row in rows if row.change.verdict is Verdict.WORSE} == {
        ALL,
        *(way for way, hops in HOPS.items() if hop in hops),
    }


@given(st.floats(1.0, 1.5))
def test_what_all_hops_became_dearer_by_together_is_told_and_not_judged(times: float) -> None:
    rows = rows_of([a_round(dict.fromkeys(US, times))] * FEWEST, BASELINE, 0.1)
    assert outcome(rows) is Verdict.SAME
    assert all(row.company == pytest.approx(times - 1) for row in rows)


@pytest.mark.parametrize("hop", US)
def test_a_hop_that_became_slower_still_is_found_on_a_day_on_which_all_are_dearer(hop: str) -> None:
    rows = rows_of([a_round(dict.fromkeys(US, 1.3) | {hop: 1.3 * 1.2})] * FEWEST, BASELINE, 0.1)
    assert {row.hop for row in rows if row.change.verdict is Verdict.WORSE} == {hop}


def test_rounds_that_are_dear_for_all_hops_leave_none_unsure() -> None:
    draw = random.Random(0)
    dear = [draw.lognormvariate(0, 0.3) for _ in range(FEWEST)]
    rows = rows_of([a_round(dict.fromkeys(US, times)) for times in dear], BASELINE, 0.1)
    assert outcome(rows) is Verdict.SAME
    rows = rows_of([a_round(dict.fromkeys(US, times) | {"router": 1.2 * times}) for times in dear], BASELINE, 0.1)
    assert {row.hop for row in rows if row.change.verdict is Verdict.WORSE} == {"router"}


def test_a_hop_that_became_better_makes_no_other_worse_though_their_shares_rise() -> None:
    rows = rows_of([a_round({"expert": 0.5})] * FEWEST, BASELINE, 0.1)
    assert outcome(rows) is Verdict.BETTER
    assert all(row.share > row.share_was for row in rows if row.hop != "expert")


def test_rounds_go_on_while_a_hop_cannot_be_told() -> None:
    steady = [a_round()] * FEWEST
    noisy = [a_round({"router": times}) for times in (0.7, 1.3)] * FEWEST
    assert enough(steady, BASELINE, 0.1)
    assert not enough(steady[1:], BASELINE, 0.1)
    assert not enough(noisy, BASELINE, 0.1)
    assert outcome(rows_of(noisy, BASELINE, 0.1)) is Verdict.UNSURE


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    BASELINE.write(tmp_path / "baseline.json")
    assert Baseline.read(tmp_path / "baseline.json") == BASELINE


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_baseline_has_every_hop_of_every_way_and_its_processor_s_name(file: Path) -> None:
    recorded = Baseline.read(file)
    assert {hop for hops in recorded.figures.values() for hop in hops} == US.keys()
    assert recorded.rounds >= FEWEST
    assert file_of(recorded.machine["processor"]) == file


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--strict"], 3)])
def test_a_processor_without_a_baseline_is_named_and_nothing_is_measured(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.overhead.__main__.machine", lambda: {"processor": "Made Up (R) 9000"})
    app = typer.Typer()
    app.command()(command)

    told = CliRunner().invoke(app, arguments)

    assert told.exit_code == code
    assert "there is no made-up-r-9000.json" in told.output


@pytest.mark.parametrize("words", ["", "{}", BASELINE.model_dump_json().replace('"direct"', '"detour"')])
def test_a_baseline_that_cannot_be_compared_with_is_refused(words: str, tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text(words, encoding="utf-8")
    with pytest.raises(NoBaseline, match="--record"):
        Baseline.read(tmp_path / "baseline.json")


def test_a_plant_has_a_hop_and_a_share() -> None:
    assert planted(["router", "expert=0.5"]) == {"router": 0.2, "expert": 0.5}


@pytest.mark.parametrize("wish", ["client", "router=much", "router=0", "router=-1", "=0.2"])
def test_a_plant_that_is_none_is_refused(wish: str) -> None:
    with pytest.raises(typer.BadParameter):
        planted([wish])


@pytest.mark.parametrize(
    "arguments",
    [["--plant", "client"], ["--plant", "router", "--record"], ["--tolerance", "0"], ["--baseline", "nowhere.json"]],
    ids=" ".join,
)
def test_a_misuse_ends_with_2_before_anything_is_measured(arguments: list[str]) -> None:
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_planted_process_uses_the_share_on_top(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        "import time\n"
        "while time.thread_time() < 0.2: pass\n"
        "while time.process_time() - time.thread_time() < 0.45 * time.thread_time(): time.sleep(0.01)\n",
        encoding="utf-8",
    )
    planting = [sys.executable, "-m", "benchmarks.overhead.slowed", "0.5", "worker"]
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    subprocess.run(planting, env=env, check=True, timeout=60)  # noqa: S603  # ends once half as much again is used
