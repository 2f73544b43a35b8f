"""How load is measured and read."""

import asyncio

import pytest

from expert_svc.load_board import LoadBoard
from expert_svc.load_meter import LoadMeter
from expertmesh.v1.expert_pb2 import Load


async def test_a_watcher_sees_the_load_at_once() -> None:
    board = LoadBoard()
    board.post(Load(running=3))

    assert await anext(board.watch()) == Load(running=3)


async def test_a_watcher_sees_the_newest_of_several_changes() -> None:
    board = LoadBoard()
    watching = board.watch(pause_s=0)
    await anext(watching)
    for running in range(1, 5):
        board.post(Load(running=running))

    assert (await anext(watching)).running == 4


async def test_a_watcher_that_comes_between_two_posts_misses_none() -> None:
    board = LoadBoard()
    watching = board.watch(pause_s=0)
    await anext(watching)
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    board.post(Load(running=1))

    assert (await waiting).running == 1


async def test_the_same_load_again_is_no_change() -> None:
    board = LoadBoard()
    watching = board.watch(pause_s=0)
    await anext(watching)
    board.post(Load())

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watching), timeout=0.01)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board() -> LoadBoard:
    return LoadBoard()


@pytest.fixture
def meter(board: LoadBoard, clock: Clock) -> LoadMeter:
    return LoadMeter(board, clock=clock)


def test_a_request_waits_until_the_engine_says_that_it_runs(board: LoadBoard, meter: LoadMeter) -> None:
    meter.admit("a", 7)
    assert (board.latest.running, board.latest.waiting, board.latest.queued_prompt_tokens) == (0, 1, 7)

    meter.step(running=1, kv_cache_use=0.25, tokens=0, step_s=None)
    assert (board.latest.running, board.latest.waiting, board.latest.queued_prompt_tokens) == (1, 0, 0)
    assert board.latest.kv_cache_use == 0.25


def test_queued_prompt_tokens_are_those_of_the_youngest(board: LoadBoard, meter: LoadMeter) -> None:
    for name, tokens in (("a", 1), ("b", 10), ("c", 100)):
        meter.admit(name, tokens)
    meter.step(running=2, kv_cache_use=0, tokens=0, step_s=None)

    assert board.latest.queued_prompt_tokens == 100


def test_a_request_that_leaves_is_gone_at_once_though_the_engine_is_silent(board: LoadBoard, meter: LoadMeter) -> None:
    meter.admit("a", 5)
    meter.step(running=1, kv_cache_use=0.5, tokens=1, step_s=0.1)
    meter.begin("a")

    meter.leave("a")

    assert (board.latest.running, board.latest.waiting, board.latest.kv_cache_use) == (0, 0, 0)


def test_leaving_twice_is_harmless(board: LoadBoard, meter: LoadMeter) -> None:
    meter.admit("a", 5)
    meter.leave("a")
    meter.leave("a")

    assert board.latest == Load()


def test_the_token_rate_falls_to_nothing_within_a_second(board: LoadBoard, meter: LoadMeter, clock: Clock) -> None:
    for _ in range(10):
        clock.now += 0.1
        meter.step(running=1, kv_cache_use=0, tokens=4, step_s=0.1)
    assert board.latest.tokens_per_second == pytest.approx(40, abs=4)

    clock.now += 0.55
    meter.settle()
    assert 0 < board.latest.tokens_per_second < 40

    clock.now += 0.5
    meter.settle()
    assert board.latest.tokens_per_second == 0


def test_the_step_time_is_a_moving_average(board: LoadBoard, meter: LoadMeter) -> None:
    assert not board.latest.HasField("step_time")
    meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.1)
    assert board.latest.step_time.ToMilliseconds() == 100

    for _ in range(100):
        meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.2)
    assert board.latest.step_time.ToMilliseconds() == pytest.approx(200, abs=1)


def test_a_prompt_costs_what_its_step_took_longer_than_others(board: LoadBoard, meter: LoadMeter) -> None:
    meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.02)
    assert not board.latest.HasField("prompt_token_time")

    meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.12, prompt_tokens=50)

    assert board.latest.prompt_token_time.ToNanoseconds() == pytest.approx(0.1 / 50 * 1e9)


def test_a_first_step_that_read_a_prompt_does_not_count_as_reading(board: LoadBoard, meter: LoadMeter) -> None:
    meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.05, prompt_tokens=5)
    assert not board.latest.HasField("prompt_token_time")  # nobody knows what the step takes without it

    meter.step(running=1, kv_cache_use=0, tokens=1, step_s=0.04)

    assert board.latest.prompt_token_time.ToNanoseconds() == pytest.approx(0.01 / 5 * 1e9)


def test_a_place_is_held_from_a_request_s_begin_to_its_end(board: LoadBoard, meter: LoadMeter, clock: Clock) -> None:
    meter.admit("a", 7)
    meter.admit("never begun", 7)
    clock.now += 5
    meter.begin("a")
    clock.now += 2
    meter.leave("never begun")
    assert not board.latest.HasField("place_time")

    meter.leave("a")

    assert board.latest.place_time.ToNanoseconds() == pytest.approx(2e9)
