"""The simulated engine: all that an engine must do, and all that it alone can."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expert_svc.engine import EngineDied
from expert_svc.simulated_engine import SimulatedEngine, Simulation, expected_answer, open_simulated_engine
from expert_svc.simulated_text import END, prompt_tokens, token, word
from expertmesh.v1.generation_pb2 import GenerateRequest, Priority, Sampling, TokenIds
from mesh_wire.errors import BadInput
from support.asking import ask, greedy, vacated
from support.engine_contract import LENGTH, STOP, EngineContract
from support.resuming_contract import ResumingContract
from support.waiting import eventually

VOCABULARY = 50_000


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedEngine]:
    async with open_simulated_engine(["general", "math"], Simulation(kv_capacity_tokens=10_000)) as engine:
        yield engine


class TestAsAnEngine(EngineContract):
    pass


class TestResuming(ResumingContract):
    pass


# What it says


@given(st.integers(0, VOCABULARY - 1))
def test_every_token_is_a_word_and_back(number: int) -> None:
    assert word(number) == "" if number == END else token(word(number), VOCABULARY) == number


@given(st.text())
def test_any_text_has_a_token_of_the_vocabulary(said: str) -> None:
    assert END < token(said, VOCABULARY) < VOCABULARY


async def test_the_answer_can_be_foretold(engine: SimulatedEngine) -> None:
    request = greedy("What is a river?")

    answered = await ask(engine, request, "math")

    assert (answered.text, answered.token_ids) == expected_answer("math", request)


def test_experts_and_prompts_differ() -> None:
    answers = {expected_answer(expert, greedy(prompt))[0] for expert in ("math", "health") for prompt in ("a", "b")}
    assert len(answers) == 4


@given(st.integers(1, 30), st.sampled_from(["math", "health"]))
def test_an_answer_continued_elsewhere_goes_on_with_the_same_tokens(delivered: int, expert: str) -> None:
    request = greedy("What is a river?", max_new_tokens=31)
    text, tokens = expected_answer(expert, request)
    seen = [*prompt_tokens(request, VOCABULARY), *tokens[:delivered]]

    rest = GenerateRequest(token_ids=TokenIds(ids=seen), sampling=Sampling(max_new_tokens=31 - delivered))
    text_after, tokens_after = expected_answer(expert, rest)

    assert tokens_after == tokens[delivered:]
    assert text.endswith(text_after)


def test_the_answer_as_a_prompt_is_read_back_as_its_tokens() -> None:
    text, tokens = expected_answer("math", greedy())
    assert prompt_tokens(GenerateRequest(prompt=text), VOCABULARY)[1:] == tokens


async def test_an_absent_max_new_tokens_means_64(engine: SimulatedEngine) -> None:
    assert (await ask(engine, GenerateRequest(prompt="Hello"))).ended.completion_tokens == 64


async def test_a_stop_string_across_two_words_is_never_sent_in_part(engine: SimulatedEngine) -> None:
    words = expected_answer("general", greedy())[0].split()
    stop = f"{words[3]} {words[4]}"

    answered = await ask(engine, greedy(stop=[stop]))

    assert answered.text == " " + " ".join(words[:3]) + " "
    assert answered.ended.matched == stop


async def test_before_min_new_tokens_nothing_stops_an_answer(engine: SimulatedEngine) -> None:
    tokens = expected_answer("general", greedy())[1]

    answered = await ask(engine, greedy(stop_token_ids=tokens[:1], min_new_tokens=1))

    assert answered.ended.completion_tokens == 12


async def test_an_answer_may_end_by_itself() -> None:
    request = greedy(max_new_tokens=1000)
    async with open_simulated_engine(["general"], Simulation(ends_one_in=20)) as engine:
        answered = await ask(engine, request)
        unending = await ask(engine, greedy(max_new_tokens=1000, ignore_eos=True))

    assert (answered.ended.reason, answered.token_ids[-1]) == (STOP, END)
    assert (answered.text, answered.token_ids) == expected_answer("general", request, ends_one_in=20)
    assert (unending.ended.reason, unending.ended.completion_tokens) == (LENGTH, 1000)


async def test_structured_output_is_refused_rather_than_broken(engine: SimulatedEngine) -> None:
    with pytest.raises(BadInput) as refused:
        await ask(engine, greedy(structured_output={"regex": "a"}))

    assert refused.value.reason == "STRUCTURE_INVALID"


# When it says it


async def test_a_full_batch_makes_others_wait_in_their_order() -> None:
    async with open_simulated_engine(["general"], Simulation(slots=2)) as engine:
        engine.stall()
        asking = [asyncio.create_task(ask(engine, greedy(f"prompt {n}"))) for n in range(5)]
        await eventually(lambda: engine.board.latest.waiting == 5)
        assert engine.board.latest.queued_prompt_tokens == 15  # the role and two words each
        engine.resume()
        starts = [answered.ended.milestones.scheduled for answered in await asyncio.gather(*asking)]

    assert starts == sorted(starts)
    assert starts[1] < starts[2]


async def test_a_full_kv_cache_makes_others_wait() -> None:
    simulation = Simulation(kv_capacity_tokens=40, step_base_s=0.001)  # each takes 5 + 12 tokens
    async with open_simulated_engine(["general"], simulation) as engine:
        asking = [asyncio.create_task(ask(engine, greedy())) for _ in range(3)]
        await eventually(lambda: (engine.board.latest.running, engine.board.latest.waiting) == (2, 1))
        await asyncio.gather(*asking)


async def test_a_waiting_request_that_leaves_lets_the_next_one_in() -> None:
    async with open_simulated_engine(["general"], Simulation(slots=1, step_base_s=0.001)) as engine:
        runs = asyncio.create_task(ask(engine, greedy(max_new_tokens=2000)))
        await eventually(lambda: engine.board.latest.running == 1)
        leaves, stays = (asyncio.create_task(ask(engine, greedy())) for _ in range(2))
        await eventually(lambda: engine.board.latest.waiting == 2)

        leaves.cancel()
        await eventually(lambda: engine.board.latest.waiting == 1)
        runs.cancel()

        assert (await stays).ended.completion_tokens == 12
        assert engine.held == 0


async def test_prefill_and_steps_take_the_time_they_are_given() -> None:
    simulation = Simulation(prefill_tokens_per_s=100, step_base_s=0.005, slow_factor=2)
    request = GenerateRequest(token_ids=TokenIds(ids=[5] * 10), sampling=Sampling(max_new_tokens=5))
    async with open_simulated_engine(["general"], simulation) as engine:
        passed = (await ask(engine, request)).ended.milestones

    assert passed.first_token - passed.scheduled >= 2 * (10 / 100 + 0.005)
    assert passed.last_token - passed.first_token >= 4 * 2 * 0.005 * 0.9


async def test_steps_are_as_fast_as_possible_without_a_step_time_and_leave_the_loop_free(
    engine: SimulatedEngine,
) -> None:
    began = time.monotonic()
    async with asyncio.timeout(10):
        await ask(engine, greedy(max_new_tokens=5000))
    assert time.monotonic() - began < 5


async def test_a_reader_that_falls_behind_gets_fewer_chunks_and_all_the_tokens(engine: SimulatedEngine) -> None:
    request = greedy(max_new_tokens=50)
    stream = engine.generate(request, expert="math", request_id="slow reader")
    pieces = [await anext(stream)]
    await eventually(lambda: engine.held == 0)
    pieces += [piece async for piece in stream]

    assert len(pieces) == 3
    assert [t for chunk in pieces[:-1] for t in chunk.token_ids] == expected_answer("math", request)[1]


# How it fails


async def test_an_engine_that_dies_says_so_to_all() -> None:
    async with open_simulated_engine(["general"], Simulation(dies_after_tokens=20)) as engine:
        asking = [asyncio.create_task(ask(engine, greedy())) for _ in range(4)]
        why = await engine.died()
        endings = await asyncio.gather(*asking, return_exceptions=True)

        assert why == "the simulated engine died after 20 tokens"
        assert [type(ending) for ending in endings] == [EngineDied] * 4
        with pytest.raises(EngineDied, match="died after 20 tokens"):
            await ask(engine, greedy())
        assert vacated(engine.board.latest)


async def test_an_engine_may_die_while_idle() -> None:
    async with open_simulated_engine(["general"], Simulation(dies_after_s=0.01)) as engine:
        async with asyncio.timeout(5):
            assert await engine.died() == "the simulated engine died after 0.01 s"


async def test_a_stalled_engine_holds_its_requests_and_goes_on_when_told() -> None:
    async with open_simulated_engine(["general"], Simulation(stalls_after_tokens=3)) as engine:
        stream = engine.generate(greedy(), expert="general", request_id="stalled")
        tokens: list[int] = []
        while len(tokens) < 3:
            tokens += (await anext(stream)).token_ids
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), timeout=0.05)

        assert engine.held == 0  # the wait was cancelled, and with it the request


async def test_the_load_keeps_settling_while_the_engine_stalls() -> None:
    async with open_simulated_engine(["general"], Simulation(stalls_after_tokens=3)) as engine:
        asking = asyncio.create_task(ask(engine, greedy()))
        await eventually(lambda: engine.board.latest.tokens_per_second > 0)
        await eventually(lambda: engine.board.latest.tokens_per_second == 0)

        assert engine.board.latest.running == 1
        asking.cancel()


async def test_the_more_urgent_go_first_and_among_equals_who_came_first() -> None:
    async with open_simulated_engine(["general"], Simulation(slots=1)) as engine:
        order: list[str] = []

        async def asked(name: str, priority: Priority.ValueType) -> None:
            request = greedy(max_new_tokens=1)
            request.priority = priority
            await ask(engine, request)
            order.append(name)

        engine.stall()
        asking = []
        for name, priority in (
            ("batch", Priority.PRIORITY_BATCH),
            ("none", Priority.PRIORITY_UNSPECIFIED),
            ("standard", Priority.PRIORITY_STANDARD),
            ("interactive", Priority.PRIORITY_INTERACTIVE),
        ):
            asking.append(asyncio.create_task(asked(name, priority)))
            await eventually(lambda: engine.held == len(asking))
        engine.resume()
        await asyncio.gather(*asking)

    assert order == ["interactive", "none", "standard", "batch"]
