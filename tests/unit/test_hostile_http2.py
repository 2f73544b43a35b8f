"""How the measurement of HTTP/2 attacks paces them, and puts windows into figures."""

import time

import pytest

from benchmarks.hostile_http2.__main__ import disturbed, row_of
from benchmarks.hostile_http2.attacks import ATTACKS
from benchmarks.hostile_http2.callers import Window
from benchmarks.hostile_http2.wire import Pace


def seen(p50_ms: float, p99_ms: float, *, failed: int = 0, others: float = 0.0) -> Window:
    return Window(p50_ms, p99_ms, failed, 0.1, others)


async def numbers(pace: Pace, count: int, most: int) -> tuple[list[int], int]:
    """Return all numbers that came, and how many came at once at most."""
    batches = [list(batch) async for batch in pace.batches(count, most)]
    return [number for batch in batches for number in batch], max(map(len, batches))


async def test_without_a_bound_all_come_in_the_largest_batches() -> None:
    assert await numbers(Pace(), 25, 10) == (list(range(25)), 10)


async def test_a_bound_holds_over_all_blocks_of_an_attack_and_batches_stay_small() -> None:
    pace, began = Pace(1000), time.monotonic()
    for _ in range(2):
        assert await numbers(pace, 50, 500) == (list(range(50)), 5)
    assert time.monotonic() - began > 0.08  # the last batch is due after 95 ms; the first at once


async def test_what_a_pace_has_missed_is_not_made_up_for() -> None:
    pace = Pace(1000)
    pace._due -= 10  # as long as if this process had had no core
    began = time.monotonic()
    await numbers(pace, 100, 500)
    assert time.monotonic() - began > 0.08


def test_ratios_are_of_windows_side_by_side_and_the_median_counts() -> None:
    pairs = [(seen(2, 5), seen(3, 10)), (seen(4, 100), seen(4, 100)), (seen(2, 10), seen(2, 40, failed=3))]
    row = row_of("rapid_resets", ATTACKS["rapid_resets"], pairs)
    assert (row["p50_times"], row["p99_times"]) == (1.0, 2.0)
    assert (row["quiet_p99_ms"], row["p99_ms"]) == (10, 40)
    assert row["failed"] == 3
    assert row["rate"] == "1,000 calls/s"


@pytest.mark.parametrize("which", [0, 1])
def test_a_pair_is_as_disturbed_as_the_worse_of_its_windows(which: int) -> None:
    pair = [seen(1, 1, others=0.02), seen(1, 1, others=0.02)]
    pair[which] = seen(1, 1, others=0.4)
    assert disturbed((pair[0], pair[1])) == 0.4
