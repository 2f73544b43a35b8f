"""Percentiles of a load: exact to what is stated, whoever recorded them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.load.histogram import LEAST_S, RELATIVE_ERROR, Histogram

DURATIONS = st.lists(st.floats(LEAST_S, 1e5), min_size=1, max_size=300)


def of(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.record(value)
    return made


@given(DURATIONS, st.floats(0, 1))
def test_a_percentile_is_within_its_stated_error(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = of(values).percentile(share)
    assert found is not None
    assert abs(found - exact) <= RELATIVE_ERROR * exact * (1 + 1e-9)


@given(DURATIONS)
def test_least_most_and_mean_are_exact(values: list[float]) -> None:
    found = of(values)
    assert (found.least_s, found.most_s, found.count) == (min(values), max(values), len(values))
    assert found.mean_s is not None
    assert math.isclose(found.mean_s, math.fsum(values) / len(values), rel_tol=1e-9)
    assert found.percentile(1.0) is not None
    assert found.percentile(1.0) <= max(values)  # type: ignore[operator]


@given(DURATIONS, DURATIONS)
def test_merging_is_the_same_as_recording_in_one_place(one: list[float], other: list[float]) -> None:
    merged, together = of(one), of(one + other)
    merged.merge(of(other))
    assert [merged.percentile(at / 10) for at in range(11)] == [together.percentile(at / 10) for at in range(11)]
    assert merged.count == together.count


@given(st.lists(st.floats(0, 1e5), max_size=50))
def test_json_brings_all_of_it_across(values: list[float]) -> None:
    found = of(values)
    again = Histogram.from_data(json.loads(json.dumps(found.to_data())))
    assert again.to_data() == found.to_data()
    assert (again.count, again.least_s) == (found.count, found.least_s)


def test_many_of_the_same_count_as_many() -> None:
    found = Histogram()
    found.record(0.1, 99)
    found.record(9.0)
    assert found.count == 100
    assert found.percentile(0.99) == found.least_s == 0.1
    assert found.percentile(1.0) == pytest.approx(9.0, rel=RELATIVE_ERROR)


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(0.5) is None
    assert Histogram().mean_s is None


def test_what_is_too_short_to_tell_counts_as_the_least() -> None:
    assert of([0.0, -1.0]).percentile(0.5) == LEAST_S


def test_a_pause_counts_for_all_that_it_kept_from_happening() -> None:
    found = Histogram()
    for _ in range(900):
        found.record_late(0.0, 0.01)
    found.record_late(1.0, 0.01)
    assert found.count == pytest.approx(1000, abs=1)
    assert found.percentile(0.95) == pytest.approx(0.5, abs=0.02)
