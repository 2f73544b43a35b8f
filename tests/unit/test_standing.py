"""Who is left alone, for how long, and how it comes back."""

from hypothesis import given
from hypothesis import strategies as st

from router_svc.replicas.standing import (
    ALONE_S,
    FAILURES,
    LONGEST_ALONE_S,
    SLOW_START_S,
    WELL_S,
    Standing,
    far_slower,
)


def fail(standing: Standing, now: float, times: int = FAILURES) -> bool:
    """Fail several requests in a row, each begun after the failure before it."""
    return [standing.failed(now + n * 0.01 + 0.005, now + n * 0.01 + 0.006) for n in range(times)][-1]


def test_failures_in_a_row_count_and_an_answer_ends_the_row() -> None:
    standing = Standing()

    assert not fail(standing, 1, FAILURES - 1)
    standing.answered(2)
    assert not fail(standing, 3, FAILURES - 1)
    assert fail(standing, 4, 1)


def test_one_break_that_ends_many_requests_is_one_failure() -> None:
    standing = Standing()

    assert not any(standing.failed(began / 100, 1.0) for began in range(100))
    assert standing.failures == 1


def test_a_replica_left_alone_gets_one_request_when_its_time_is_over_and_that_decides() -> None:
    standing = Standing()
    standing.joins(0, gently=False)
    alone_s = standing.leave_alone("it failed", 10)

    assert alone_s == ALONE_S
    assert not standing.may_be_asked(0, 10 + alone_s - 0.1)
    assert standing.may_be_asked(0, 10 + alone_s)
    assert not standing.may_be_asked(1, 10 + alone_s), "one at a time"
    assert standing.failed(13, 14), "its one request failed: at once, not after several"
    assert standing.leave_alone("it failed again", 14) == 2 * ALONE_S
    standing.answered(20)
    assert standing.may_be_asked(50, 20)
    assert standing.places(100, 20) == 1, "it starts slowly"


@given(st.integers(1, 10_000))
def test_it_is_left_alone_for_longer_each_time_but_never_for_good(times: int) -> None:
    standing = Standing(times_alone=times)

    assert ALONE_S < standing.leave_alone("it failed", 0) <= LONGEST_ALONE_S


def test_what_was_long_ago_is_forgotten() -> None:
    standing = Standing(times_alone=5)
    fail(standing, 0, 1)
    standing.answered(WELL_S / 2)
    assert standing.times_alone == 5
    standing.answered(2 * WELL_S)
    assert standing.times_alone == 0


@given(st.integers(1, 4096), st.floats(0, 3 * SLOW_START_S), st.floats(0, 3 * SLOW_START_S))
def test_a_new_replica_is_counted_on_more_and_more(max_running: int, one_s: float, other_s: float) -> None:
    standing = Standing()
    standing.joins(100.0, gently=True)
    early, late = sorted((one_s, other_s))

    assert 1 <= standing.places(max_running, 100 + early) <= standing.places(max_running, 100 + late) <= max_running
    assert standing.places(max_running, 100 + SLOW_START_S) == max_running


def test_the_first_of_its_kind_is_counted_on_at_once() -> None:
    standing = Standing()
    standing.joins(100.0, gently=False)

    assert standing.places(64, 100.0) == 64


def test_one_that_was_taken_back_may_be_asked_at_once() -> None:
    standing = Standing()
    standing.leave_alone("it failed", 0)
    standing.take_back(0.1)

    assert standing.may_be_asked(3, 0.2)


def test_only_what_is_far_slower_than_its_siblings_is_called_so() -> None:
    assert far_slower(0.5, [0.02, 0.03])
    assert not far_slower(0.5, [])
    assert not far_slower(0.09, [0.02, 0.03])
    assert not far_slower(0.015, [0.0001]), "short steps differ by noise"
    assert far_slower(0.5, [0.0, 0.0])
