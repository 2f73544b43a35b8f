"""Times to come back for those who were refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_wire.appointments import KEPT, LONGEST_S, SPACING, Appointments


def given_to(appointments: Appointments, name: str, caller: str = "", now: float = 0, soonest_s: float = 0) -> float:
    return appointments.give(name, caller, now, soonest_s=soonest_s, apart_s=0.1)


def test_those_who_are_refused_come_back_one_after_the_other_as_places_come_free() -> None:
    appointments = Appointments(lambda: 0.0)

    told = [given_to(appointments, str(n), soonest_s=1) for n in range(5)]

    assert told == pytest.approx([1 + 0.1 * SPACING * n for n in range(1, 6)])


def test_a_request_that_comes_when_it_was_told_to_keeps_its_appointment_once() -> None:
    appointments = Appointments(lambda: 0.5)
    at = given_to(appointments, "mine", now=10, soonest_s=3)

    assert not appointments.keep("mine", 11)
    assert not appointments.keep("another", 10 + at)
    assert appointments.keep("mine", 10 + at)
    assert not appointments.keep("mine", 10 + at)


def test_an_appointment_lapses() -> None:
    appointments = Appointments(lambda: 0.5)
    at = given_to(appointments, "mine", soonest_s=3)

    assert not appointments.keep("mine", 2 * at + 3)


def test_a_greedy_caller_fills_its_own_book_and_nobody_elses() -> None:
    appointments = Appointments(lambda: 0.0)
    far = [given_to(appointments, f"greedy {n}", "greedy") for n in range(100)][-1]

    assert far > 5
    assert given_to(appointments, "modest", "modest") < 0.2


def test_a_book_is_worked_off_as_time_passes() -> None:
    appointments = Appointments(lambda: 0.0)
    for number in range(100):
        given_to(appointments, str(number))

    assert given_to(appointments, "later", now=100) == pytest.approx(0.1 * SPACING)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc"), st.floats(0, 200)), max_size=60), st.floats(0, 0.99))
def test_nobody_is_sent_away_for_nothing_or_for_longer_than_can_be_planned(
    asks: list[tuple[float, str, float]], chance: float
) -> None:
    appointments, now = Appointments(lambda: chance), 0.0
    for number, (pause_s, caller, soonest_s) in enumerate(asks):
        now += pause_s
        told = given_to(appointments, str(number), caller, now, soonest_s)
        assert 0 < told <= LONGEST_S + 0.2


def test_what_is_remembered_has_a_bound() -> None:
    appointments = Appointments(lambda: 0.0)
    for number in range(KEPT + 500):
        given_to(appointments, str(number), str(number))

    assert len(appointments._due) <= KEPT
    assert len(appointments._booked) <= KEPT + 1
