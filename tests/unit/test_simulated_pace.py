"""How long a simulated engine's steps take, what they read, and how its cache fills."""

import asyncio

import pytest

from expert_svc.engine import Ended
from expert_svc.simulated_engine import Simulation, expected_answer, open_simulated_engine
from expert_svc.simulated_pace import fits_step, step_seconds
from expertmesh.v1.generation_pb2 import GenerateRequest
from support.asking import greedy


def test_a_step_is_its_base_and_what_it_reads_and_each_sequence_with_its_context() -> None:
    pace = Simulation(
        prefill_tokens_per_s=1000, step_base_s=0.01, step_per_sequence_s=0.001, step_per_context_token_s=1e-5
    )
    assert step_seconds(pace, running=3, context=200, read=50) == pytest.approx(0.01 + 0.003 + 0.002 + 0.05)
    slow = pace.model_copy(update={"slow_factor": 2.0})
    assert step_seconds(slow, running=3, context=200, read=50) == pytest.approx(2 * 0.065)


def test_a_step_reads_whole_prompts_up_to_its_limit_and_always_one() -> None:
    limited = Simulation(step_prompt_tokens=100)
    assert fits_step(limited, 0, 5000)
    assert fits_step(limited, 60, 40)
    assert not fits_step(limited, 60, 41)
    assert fits_step(Simulation(), 10**6, 10**6)


async def asked(simulation: Simulation, requests: list[GenerateRequest]) -> list[tuple[list[int], Ended]]:
    """Ask an engine all at once; returns each answer's tokens and end."""
    async with open_simulated_engine(["general"], simulation) as engine:

        async def one(number: int, request: GenerateRequest) -> tuple[list[int], Ended]:
            tokens: list[int] = []
            async for chunk in engine.generate(request, expert="general", request_id=str(number)):
                if isinstance(chunk, Ended):
                    return tokens, chunk
                tokens += chunk.token_ids
            raise AssertionError("no end")

        answers = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
        assert engine.held == 0
        assert engine._kv_held == 0
        return answers


async def test_time_runs_faster_than_the_clock_where_it_is_told_to() -> None:
    hours = Simulation(step_base_s=3600, speed=1e9)

    [(tokens, _)] = await asked(hours, [greedy("how long?", max_new_tokens=5)])

    assert len(tokens) == 5


@pytest.mark.parametrize(("limit", "steps"), [(None, 1), (1, 3)])
async def test_prompts_beyond_a_steps_limit_are_read_by_later_steps(limit: int | None, steps: int) -> None:
    requests = [greedy(f"prompt {number} of three", max_new_tokens=9) for number in range(3)]

    answers = await asked(Simulation(step_base_s=0.001, step_prompt_tokens=limit), requests)

    assert len({ended.milestones.scheduled for _, ended in answers}) == steps


@pytest.mark.parametrize("capacity", [12, 20, 45, 1000])
async def test_answers_are_the_same_though_a_full_cache_makes_some_wait_again(capacity: int) -> None:
    requests = [greedy(f"prompt {number} of many", max_new_tokens=20) for number in range(6)]

    answers = await asked(Simulation(kv_grows=True, kv_capacity_tokens=capacity), requests)

    for request, (tokens, ended) in zip(requests, answers, strict=True):
        assert tokens == expected_answer("general", request)[1]
        assert ended.completion_tokens == 20
