"""What is worth a trace that the sampler left out."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_wire.sampling import FEWEST, KINDS_AT_MOST, RECENT, Allowance, Pace, Paces, Wanted, wanted

HUNDREDTH = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


@pytest.mark.parametrize(
    ("env", "kept"),
    [
        ({}, Wanted()),
        (HUNDREDTH, Wanted(True, True)),
        (HUNDREDTH | {"OTEL_TRACES_SAMPLER": "TraceIdRatio"}, Wanted(True, True)),
        (HUNDREDTH | {"OTEL_TRACES_SAMPLER_ARG": "1"}, Wanted()),
        (HUNDREDTH | {"OTEL_TRACES_SAMPLER_ARG": "many"}, Wanted()),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Wanted()),
        ({"OTEL_TRACES_SAMPLER": "always_off", "EXPERTMESH_TRACE_TAIL": "errors"}, Wanted(errors=True)),
        (HUNDREDTH | {"EXPERTMESH_TRACE_TAIL": "Slowest"}, Wanted(slowest=True)),
        (HUNDREDTH | {"EXPERTMESH_TRACE_TAIL": "errors, slowest"}, Wanted(True, True)),
        (HUNDREDTH | {"EXPERTMESH_TRACE_TAIL": "off"}, Wanted()),
    ],
)
def test_what_is_kept_follows_the_ratio_and_the_setting(env: dict[str, str], kept: Wanted) -> None:
    assert wanted(env) == kept


@pytest.mark.parametrize("said", ["all", "errors,off", "errors,"])
def test_a_setting_that_cannot_be_read_is_told_and_as_if_absent(said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert wanted(HUNDREDTH | {"EXPERTMESH_TRACE_TAIL": said}) == Wanted(True, True)
        assert wanted({"EXPERTMESH_TRACE_TAIL": said}) == Wanted()
    assert "errors,slowest or off" in caplog.text


def test_nobody_knows_what_is_slow_before_there_is_enough_to_compare_with() -> None:
    pace = Pace()
    assert not any(pace.exceeded(float(value), None) for value in range(FEWEST))
    assert pace.exceeded(1e6, None)


def test_nor_how_late_a_first_token_may_be_while_few_had_one() -> None:
    pace = Pace()
    for number in range(RECENT):
        pace.exceeded(1.0, 0.1 if number % 10 == 0 else None)
    assert not pace.exceeded(1.0, 1e6)


def test_a_hundredth_of_a_steady_traffic_is_slow() -> None:
    pace = Pace()
    values = [float(number * 7919 % 10_007) for number in range(10_000)]
    assert 50 <= sum(pace.exceeded(value, None) for value in values) <= 300


def test_what_was_slow_is_not_once_all_are() -> None:
    pace = Pace()
    for _ in range(RECENT):
        pace.exceeded(1.0, 0.5)
    assert sum(pace.exceeded(2.0, 1.0) for _ in range(10_000)) <= RECENT


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), max_size=700))
def test_any_durations_do(requests: list[tuple[float, float | None]]) -> None:
    pace = Pace()
    for took_s, first_token_s in requests:
        pace.exceeded(took_s, first_token_s)


def test_kinds_are_told_apart_and_a_late_first_token_is_slow_too() -> None:
    paces = Paces()
    for _ in range(FEWEST):
        assert not paces["route"].exceeded(0.001, None)
        assert not paces["answer"].exceeded(10.0, 0.1)
    assert paces["route"].exceeded(1.0, None)
    assert not paces["answer"].exceeded(10.0, 0.1)
    assert paces["answer"].exceeded(10.0, 0.2)


def test_kinds_beyond_a_number_are_not_looked_at() -> None:
    paces = Paces()
    for kind in range(2 * KINDS_AT_MOST):
        for _ in range(FEWEST):
            paces[str(kind)].exceeded(1.0, None)
    assert paces["0"].exceeded(2.0, None)
    assert not paces[str(2 * KINDS_AT_MOST - 1)].exceeded(2.0, None)


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    allowance = Allowance(per_s=2, burst=3)
    assert [allowance.take(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [allowance.take(101.0) for _ in range(3)] == [True, True, False]
    assert allowance.refused == 3
    assert [allowance.take(1e6) for _ in range(4)] == [True, True, True, False]
