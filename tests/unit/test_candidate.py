"""The wait that a replica lets expect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import duration
from router_svc.choosing.candidate import UNMEASURED_STEP_S, Candidate, expected_wait_s, is_stale
from support.candidates import any_candidate, replica

STEP = duration(0.01)


def test_an_idle_engine_is_expected_to_answer_in_a_step() -> None:
    assert expected_wait_s(replica("a")) == UNMEASURED_STEP_S
    assert expected_wait_s(replica("a", load=Load(step_time=STEP))) == pytest.approx(0.01)


def test_a_full_engine_must_first_end_as_many_as_wait_and_one_more() -> None:
    load = Load(running=4, waiting=1, step_time=STEP, place_time=duration(2))

    # Five are there, so a quarter more than a full batch; a place comes free every half second, and two are needed.
    assert expected_wait_s(replica("a", load=load, max_running=4)) == pytest.approx(0.01 * (1 + 5 / 4) + 2 * 2 / 4)
    assert expected_wait_s(replica("a", load=load, max_running=6)) < 0.1


def test_what_is_queued_is_read_first() -> None:
    load = Load(waiting=1, queued_prompt_tokens=1000, prompt_token_time=duration(0.001), step_time=STEP)

    assert expected_wait_s(replica("a", load=load, max_running=8)) == pytest.approx(1.0, abs=0.02)


def test_an_engine_whose_cache_is_full_has_no_more_places_than_run() -> None:
    load = Load(running=4, waiting=1, kv_cache_use=0.95, step_time=STEP, place_time=duration(2))

    assert expected_wait_s(replica("a", load=load, max_running=64)) == pytest.approx(1.0, abs=0.02)


@given(any_candidate(), st.integers(0, 20), st.sampled_from(["waiting", "outstanding"]))
def test_more_load_never_means_less_wait(one: Candidate, more: int, where: str) -> None:
    load, outstanding = Load(), one.outstanding
    load.CopyFrom(one.load)
    load.kv_cache_use = 0  # with a full cache, the first that waits says so
    one = one._replace(load=load)
    busy = Load()
    busy.CopyFrom(load)
    if where == "outstanding":
        outstanding += more
    else:
        busy.waiting += more

    assert expected_wait_s(one._replace(load=busy, outstanding=outstanding)) >= expected_wait_s(one) >= 0


@pytest.mark.parametrize(
    ("told_at", "load", "outstanding", "stale"),
    [
        (-3.0, Load(running=1), 0, True),
        (-3.0, Load(), 1, True),
        (-3.0, Load(), 0, False),  # it has nothing to tell
        (-1.0, Load(running=1), 1, False),
        (None, Load(), 1, True),
        (None, Load(), 0, False),
    ],
)
def test_a_busy_engine_s_silence_makes_its_load_stale(
    told_at: float | None, load: Load, outstanding: int, stale: bool
) -> None:
    one = replica("a", load=load, outstanding=outstanding, told_at=told_at)

    assert is_stale(one, now=0.0, after_s=2.0) is stale
