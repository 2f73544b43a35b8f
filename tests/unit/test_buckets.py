"""Token buckets: the long run, the burst, and times to come back that are true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.admitting.buckets import LONGEST_TOLD_S, Bucket

rates = st.floats(0.1, 1000)


def taken(bucket: Bucket, amount: float, now: float) -> bool:
    if bucket.lacks_s(amount, now):
        return False
    bucket.take(amount, now)
    return True


def test_a_burst_goes_at_once_and_then_the_rate_holds() -> None:
    bucket = Bucket(rate=2, size=4, now=0)

    assert [taken(bucket, 1, 0) for _ in range(5)] == [True] * 4 + [False]
    assert bucket.lacks_s(1, 0) == pytest.approx(0.5)
    assert not taken(bucket, 1, 0.49)
    assert taken(bucket, 1, 0.51)


@given(rates, st.floats(0.1, 100), st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 200)), max_size=50))
def test_nobody_gets_more_than_the_burst_and_the_rate_and_one_that_was_larger_than_both(
    rate: float, size: float, asks: list[tuple[float, float]]
) -> None:
    bucket, now, got = Bucket(rate, size, 0), 0.0, 0.0
    for pause_s, amount in asks:
        now += pause_s
        if taken(bucket, amount, now):
            got += amount
            assert got - amount <= size + rate * now + 1e-6


@given(rates, st.floats(0.1, 100), st.floats(0, 100), st.floats(0.01, 300))
def test_there_is_enough_when_it_was_said_that_there_would_be_and_not_before(
    rate: float, size: float, drained: float, amount: float
) -> None:
    bucket = Bucket(rate, size, 0)
    bucket.take(drained, 0)
    lacks_s = bucket.lacks_s(amount, 0)

    if lacks_s > 1e-3:
        assert bucket.lacks_s(amount, lacks_s * 0.99) > 0
    assert bucket.lacks_s(amount, lacks_s) <= 1e-6 * max(1.0, lacks_s)


def test_all_who_come_back_when_they_were_told_to_find_what_they_asked_for() -> None:
    bucket = Bucket(rate=10, size=5, now=0)
    bucket.take(5, 0)

    told = [bucket.told_s(1, 0) for _ in range(20)]

    assert told == sorted(told)
    assert told[0] == pytest.approx(0.1)
    assert all(taken(bucket, 1, at + 1e-9) for at in told)


def test_nobody_is_sent_away_for_longer_than_can_be_planned() -> None:
    bucket = Bucket(rate=1, size=1, now=0)
    bucket.take(1, 0)

    assert max(bucket.told_s(1, 0) for _ in range(1000)) == LONGEST_TOLD_S


def test_what_was_guessed_too_high_comes_back_and_what_was_too_low_is_owed() -> None:
    bucket = Bucket(rate=1, size=100, now=0)
    bucket.take(80, 0)
    bucket.take(-50, 0)  # it was 30
    assert taken(bucket, 70, 0)

    bucket.take(40, 0)  # another was 40 more
    assert bucket.lacks_s(1, 0) == pytest.approx(41)


def test_more_than_it_holds_can_be_taken_when_it_is_full() -> None:
    bucket = Bucket(rate=1, size=10, now=0)

    assert taken(bucket, 50, 0)
    assert bucket.lacks_s(1, 0) == pytest.approx(41)
