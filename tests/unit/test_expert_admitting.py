"""When an engine takes a request, and what it tells whom it does not take."""

import time

import pytest

from expert_svc.admitting import KEPT_TIMES, READING_S, Bounds, EngineAdmission, Outlook
from expert_svc.load_board import LoadBoard
from expertmesh.v1.expert_pb2 import DescribeResponse, Load
from expertmesh.v1.generation_pb2 import GenerateRequest, Resume
from mesh_wire.asked import Asked
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.errors import Busy
from mesh_wire.settings import ExpertSection, Simulation
from mesh_wire.untraced import UNTRACED

PLACE_S = 2.0


class Engine:
    """As much of one as admission sees."""

    def __init__(self, **load: object) -> None:
        self.board = LoadBoard()
        self.description = DescribeResponse(max_running=4)
        self.post(**load)

    def post(self, **load: object) -> None:
        self.board.post(Load(place_time=duration(PLACE_S), step_time=duration(0.01), **load))  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(engine: Engine, clock: Clock | None = None, **section: object) -> EngineAdmission:
    settings = ExpertSection.model_validate(
        {"name": "a", "serves": {"general": None}, "listen": "127.0.0.1:0", "simulated": Simulation(), **section}
    )
    return EngineAdmission(engine, settings, clock=clock or Clock(), chance=lambda: 0.0)  # type: ignore[arg-type]


def asked(left_s: float | None = None) -> Asked:
    return Asked(Deadline.after(left_s), "", UNTRACED, time.monotonic())


def refused(one: EngineAdmission, name: str = "mine", left_s: float | None = None) -> Busy:
    with pytest.raises(Busy) as told, one.place_for(GenerateRequest(request_id=name), asked(left_s)):
        pass
    return told.value


def taken(one: EngineAdmission, name: str = "mine", left_s: float | None = None) -> bool:
    with one.place_for(GenerateRequest(request_id=name), asked(left_s)):
        return one.taken == 1


def test_an_engine_with_places_takes_whoever_comes_even_with_little_time() -> None:
    assert taken(admission(Engine(running=3)), left_s=0.02)


def test_as_many_wait_for_a_place_as_may() -> None:
    assert taken(admission(Engine(running=4, waiting=2), queue=3))
    error = refused(admission(Engine(running=4, waiting=3), queue=3))

    assert error.reason == "EXPERT_BUSY"
    assert error.facts["expected_wait_ms"] == "2000"
    assert error.facts["request_id"] == "mine"


def test_a_wait_that_is_longer_than_the_deadline_is_refused_at_once() -> None:
    engine = Engine(running=4, waiting=2)  # the third to come waits 1.5 s

    assert taken(admission(engine), left_s=5)
    assert refused(admission(engine), left_s=1).reason == "DEADLINE_TOO_SHORT"


def test_prompts_that_wait_to_be_read_count() -> None:
    engine = Engine(running=1, waiting=1, queued_prompt_tokens=1000, prompt_token_time=duration(0.001))
    assert taken(admission(engine))
    assert refused(admission(engine, max_wait_s=0.5)).reason == "EXPERT_BUSY"
    assert refused(admission(engine), left_s=0.5).reason == "DEADLINE_TOO_SHORT"

    engine.post(running=1, queued_prompt_tokens=10_000, prompt_token_time=duration(0.001))
    assert refused(admission(engine)).reason == "EXPERT_BUSY"


def test_a_full_cache_counts_as_no_more_places_than_run() -> None:
    engine = Engine(running=2, waiting=2, kv_cache_use=0.97)
    assert admission(engine).outlook() == Outlook(place_s=3.0, reading_s=0.0, every_s=1.0)
    assert refused(admission(engine, queue=2)).reason == "EXPERT_BUSY"


def test_what_is_let_in_and_not_with_the_engine_yet_counts() -> None:
    one = admission(Engine(), queue=1)
    for number in range(5):
        one.take()
        assert one.taken == number + 1
    assert refused(one).reason == "EXPERT_BUSY"


def test_those_refused_are_told_different_times_and_are_let_in_then() -> None:
    engine, clock = Engine(running=4, waiting=5), Clock()
    one = admission(engine, clock, queue=4)
    first, second = refused(one, "first").retry_after_s, refused(one, "second").retry_after_s
    assert first is not None
    assert second is not None
    assert 0 < first < second

    clock.now += first
    refused(one, "third")
    assert taken(one, "first")
    refused(one, "second")  # too early
    assert one.refused == 4


def test_even_those_who_come_when_told_do_not_wait_without_bound() -> None:
    engine, clock = Engine(running=4, waiting=5), Clock()
    one = admission(engine, clock, queue=4)
    pause_s = refused(one).retry_after_s
    assert pause_s is not None
    engine.post(running=4, waiting=int(4 * KEPT_TIMES) + 1)
    clock.now += pause_s

    assert refused(one).reason == "EXPERT_BUSY"


def test_the_rest_of_an_answer_is_taken_where_a_new_one_is_not() -> None:
    one = admission(Engine(running=4, waiting=5), queue=4)
    refused(one)
    rest = GenerateRequest(request_id="mine", resume=Resume(token_ids=[1, 2], text="so far"))
    with one.place_for(rest, asked()):
        assert one.taken == 1


def test_places_run_out_whatever_the_wait() -> None:
    one = admission(Engine(), max_in_flight=2)
    one.take()
    one.take()
    assert refused(one).reason == "EXPERT_BUSY"


def test_a_short_wait_is_never_too_long_by_itself() -> None:
    bounds = Bounds(queue=1)
    assert bounds.over_s(Outlook(place_s=0.2, reading_s=0, every_s=0.001)) < 0
    assert bounds.over_s(Outlook(place_s=0.3, reading_s=0, every_s=0.001)) > 0
    assert bounds.over_s(Outlook(place_s=0, reading_s=READING_S + 1, every_s=1)) == pytest.approx(1)
