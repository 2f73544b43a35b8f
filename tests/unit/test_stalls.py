"""When a replica seems to hang."""

import pytest

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import duration
from mesh_wire.open_session import Pulse
from router_svc.replicas.stalls import stall_of

NOW, STALL_S = 1000.0, 2.5
QUIET = Load(running=1, step_time=duration(0.03), prompt_token_time=duration(0.0001))


def judged(pulse: Pulse, load: Load = QUIET, load_at: float | None = NOW - 0.5, since: float = 0.0) -> str:
    return stall_of(pulse, load, load_at, 8192, NOW, STALL_S, since)


def pulse(heard: float = 0.1, stepped: float | None = 0.1, asked: float | None = None) -> Pulse:
    """Return a pulse; all arguments are seconds ago."""
    return Pulse(NOW - heard, None if stepped is None else NOW - stepped, None if asked is None else NOW - asked)


def test_a_replica_that_answers_does_not_hang() -> None:
    assert judged(pulse()) == ""


def test_silence_of_every_stream_is_a_hang() -> None:
    assert "silent for 2.6 s" in judged(pulse(heard=2.6, stepped=2.6), load_at=NOW - 3)
    assert judged(pulse(heard=2.6, stepped=None, asked=2.6), load_at=NOW - 1) == ""


def test_an_engine_without_a_step_is_a_hang_though_its_process_lives() -> None:
    assert "no step for 2.6 s" in judged(pulse(stepped=2.6))
    assert judged(pulse(stepped=2.4)) == ""


def test_an_engine_that_gives_others_tokens_does_not_hang() -> None:
    assert judged(pulse(stepped=60), Load(running=1, tokens_per_second=3)) == ""


@pytest.mark.parametrize(
    "load",
    [
        Load(running=1, step_time=duration(1)),  # each of its steps takes long
        Load(running=1, waiting=1, queued_prompt_tokens=30_000, prompt_token_time=duration(0.0002)),  # it reads
    ],
    ids=["slow", "reading"],
)
def test_what_is_known_to_take_long_may(load: Load) -> None:
    assert judged(pulse(stepped=6), load) == ""
    assert judged(pulse(stepped=9), load)


def test_a_first_token_gets_more_patience_and_an_engine_that_never_answered_all_of_it() -> None:
    assert judged(pulse(stepped=None, asked=9)) == ""
    assert "begun nothing for 11.0 s" in judged(pulse(stepped=None, asked=11))
    assert judged(pulse(stepped=None, asked=11), Load(waiting=1)) == ""


def test_what_we_were_not_there_to_see_is_not_held_against_it() -> None:
    assert judged(pulse(heard=60, stepped=60), load_at=NOW - 60, since=NOW - 1) == ""
