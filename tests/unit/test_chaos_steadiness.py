"""How a soak judges memory."""

import math
import random
from collections.abc import Callable

import pytest

from benchmarks.chaos.mesh import EXPERTS, REPLICAS
from benchmarks.chaos.scenarios import SCENARIOS, rate_of
from benchmarks.chaos.steadiness import FEWEST_MINUTES, judged, minutes_of, slope_mb_per_h
from benchmarks.chaos.verdict import Seen, passed, verdict
from mesh_wire.settings import Simulation

HOUR_S = 3600


def life(mb: Callable[[int], float], seconds: int = HOUR_S, began: float = 5000.0) -> list[tuple[float, float]]:
    return [(began + at, mb(at)) for at in range(seconds + 1)]


def noisy(at: int) -> float:
    return random.Random(at).gauss(0, 0.3)


@pytest.mark.parametrize(
    "mb",
    [
        lambda at: 60.0,
        lambda at: 60.0 + noisy(at),
        lambda at: 60.0 + 0.9 * at / HOUR_S,
        lambda at: 60.0 - 5 * at / HOUR_S,
        lambda at: min(75.0, 40.0 + at / 20),
        lambda at: 60.0 + 8 * (at % 400) / 400,
        lambda at: 60.0 + 3 * math.sin(at / 300),
        lambda at: 60.0 + (40.0 if 2000 < at < 2300 else 0.0),
    ],
    ids=["flat", "noisy", "just", "falls", "fills at first", "collected", "waves", "a burst"],
)
def test_memory_that_stays_passes(mb: Callable[[int], float]) -> None:
    assert judged("router-0", life(mb))[0] is True


@pytest.mark.parametrize(
    "mb",
    [
        lambda at: 60.0 + 1.2 * at / HOUR_S,
        lambda at: 60.0 + 1.5 * at / HOUR_S + noisy(at),
        lambda at: 60.0 + 54 * at / HOUR_S,
        lambda at: 60.0 + 8 * (at % 400) / 400 + 4 * at / HOUR_S,
        lambda at: 60.0 + 0.5 * (at // 300),
    ],
    ids=["a little", "in noise", "0.9 a minute", "beneath what is collected", "in steps"],
)
def test_memory_that_grows_fails(mb: Callable[[int], float]) -> None:
    assert judged("router-0", life(mb))[0] is False


def test_the_slope_is_told_and_what_a_process_fills_in_its_first_quarter_does_not_count() -> None:
    slope, minutes = slope_mb_per_h(life(lambda at: 60.0 + 6 * at / HOUR_S + (0 if at >= 900 else -30)))
    assert slope == pytest.approx(6.0)
    assert minutes == 45
    assert "+6.00 MB an hour, at 66 MB, over 45 minutes" in judged("x", life(lambda at: 60.0 + 6 * at / HOUR_S))[1]


def test_a_minute_that_has_not_ended_does_not_count_and_one_without_a_look_is_no_minute() -> None:
    assert [at for at, _ in minutes_of(life(lambda at: 1.0, seconds=340))] == [0.0, 60.0, 120.0, 180.0]
    with_a_hole = [one for one in life(lambda at: 1.0) if not 2000 <= one[0] - 5000 < 2300]
    assert len(minutes_of(with_a_hole)) in (40, 41)


def test_too_short_a_life_is_told_and_not_judged() -> None:
    for seconds in (0, 30, 300, FEWEST_MINUTES * 60):
        good, words = judged("x", life(lambda at: 60.0 + at, seconds=seconds))
        assert good is None
        assert "too" in words
    assert judged("x", [])[0] is None


def test_a_soak_tells_every_process_and_fails_by_any_one_of_them() -> None:
    row = {"outcome": "good", "gap_s": 0.5, "resumed": 0, "words": ""}
    flat, grows = life(lambda at: 60.0), life(lambda at: 60.0 + at / 1000)
    lines = verdict(Seen(rows=[row], memory=[("router-0", flat), ("math-1", flat)]), steady=True)
    assert passed(lines)
    assert {"router-0", "math-1"} <= {word.rstrip(":") for line in lines for word in line.words.split()}
    assert not passed(verdict(Seen(rows=[row], memory=[("router-0", flat), ("math-1", grows)]), steady=True))


def test_the_load_of_a_soak_takes_its_share_of_all_places() -> None:
    """By Little's law: as many are in the house as come while one stays."""
    assert rate_of(Simulation(step_base_s=0.1), 20, (5, 15), 0.5) == pytest.approx(10.0)
    soak = SCENARIOS["soak"]
    rate, fewest, most = (
        float(soak.load[soak.load.index(word) + n]) for word, n in (("--rate", 1), ("--tokens", 1), ("--tokens", 2))
    )
    stays_s = soak.profile.step_base_s * (fewest + most) / 2
    assert rate * stays_s == pytest.approx(0.7 * soak.profile.slots * REPLICAS * len(EXPERTS))
