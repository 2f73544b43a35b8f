"""Deadlines and durations."""

from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from mesh_wire.deadlines import LONGEST_S, Deadline, duration, seconds


@given(st.integers(-(10**15), 10**15))
def test_a_duration_there_and_back_is_the_same(microseconds: int) -> None:
    assert abs(seconds(duration(microseconds / 1e6)) - microseconds / 1e6) < 1e-6


@given(st.floats(allow_nan=False))
def test_any_number_of_seconds_has_a_duration(number: float) -> None:
    assert abs(seconds(duration(number))) <= LONGEST_S


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_duration_is_some_number_that_can_be_sent_on(whole: int, nanos: int) -> None:
    left_s = Deadline.after(seconds(Duration(seconds=whole, nanos=nanos))).left_s()

    assert left_s is not None
    duration(left_s).SerializeToString()


def test_no_deadline_never_passes() -> None:
    assert Deadline.after(None) == Deadline()
    assert Deadline().left_s() is None
    assert not Deadline().passed


def test_a_deadline_ahead_has_time_left() -> None:
    deadline = Deadline.after(1000)
    left_s = deadline.left_s()

    assert left_s is not None
    assert 0 < left_s <= 1000
    assert not deadline.passed


def test_a_deadline_behind_has_less_than_nothing_left() -> None:
    deadline = Deadline.after(-1)
    left_s = deadline.left_s()

    assert left_s is not None
    assert left_s <= -1
    assert deadline.passed


def test_a_deadline_of_now_has_passed() -> None:
    assert Deadline.after(0).passed
