"""Sessions driven at random: starts, cancels, slow readers, cut lines; every answer checked token by token."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from mesh_wire.settings import Simulation
from support.cable import Cable, cable
from support.calls import Talk, Whole
from support.mesh import RunningExpert, RunningRouter, running_expert, running_router
from support.waiting import eventually

SESSIONS, REPLICAS = 2, 2
FAILURES = {"EXPERT_LOST", "NO_EXPERT"}  # what a cut line may do to an answer

steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, SESSIONS - 1), st.integers(1, 200)),
        st.tuples(st.just("read"), st.integers(0, SESSIONS - 1), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, SESSIONS - 1), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.just(0), st.integers(1, 20)),
        st.tuples(st.just("cut"), st.integers(0, REPLICAS - 1), st.just(0)),
        st.tuples(st.just("mend"), st.integers(0, REPLICAS - 1), st.just(0)),
    ),
    max_size=40,
)


@dataclass
class Caller:
    """One session, and what was asked in it."""

    talk: Talk
    asked: dict[int, GenerateRequest] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)

    async def start(self, tokens: int) -> None:
        number = len(self.asked) + 1
        sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
        request = GenerateRequest(prompt=f"question {number} of {id(self)}", expert="general", sampling=sampling)
        self.asked[number] = request
        await self.talk.start(number, request)

    async def cancel(self, at: int) -> None:
        if at < len(self.asked):
            number = sorted(self.asked)[at]
            self.cancelled.add(number)
            await self.talk.cancel(number)

    @property
    def wanted(self) -> set[int]:
        return self.asked.keys() - self.cancelled

    def over(self, number: int) -> bool:
        return number in self.talk.answers and self.talk.answers[number].over

    async def read(self, messages: int) -> None:
        """Take some messages, as long as there is anything to come."""
        for _ in range(messages):
            if all(self.over(number) for number in self.wanted):
                return
            assert await self.talk.read(), "the router ended the session"

    async def finish(self) -> None:
        await self.talk.until_over(*self.wanted)
        await self.talk.hang_up()

    def check(self) -> None:
        assert self.talk.answers.keys() <= self.asked.keys(), "an answer that nobody asked for"
        for number, answer in self.talk.answers.items():
            check(answer, self.asked[number], whole=number in self.wanted)


def check(answer: Whole, request: GenerateRequest, *, whole: bool) -> None:
    """Hold an answer against what the engine must say. One that was cancelled may end anywhere."""
    text, tokens = expected_answer("general", request)
    assert answer.token_ids == tokens[: len(answer.token_ids)]
    assert text.startswith(answer.text)
    assert answer.order[:1] in ([], ["route"])
    assert "route" not in answer.order[1:]
    if answer.error is not None:
        assert answer.error.reason in FAILURES
        assert answer.error.facts["tokens_sent"] == str(len(answer.token_ids))
    elif whole:
        assert answer.finished is not None
        assert (answer.token_ids, answer.text) == (tokens, text)
        assert answer.finished.usage.completion_tokens == len(tokens)


async def drive(todo: list[tuple[str, int, int]], callers: list[Caller], lines: list[Cable]) -> None:
    for step, which, how_much in todo:
        match step:
            case "start":
                await callers[which].start(how_much)
            case "read":
                await callers[which].read(how_much)
            case "cancel":
                await callers[which].cancel(how_much)
            case "turn":
                for _ in range(how_much):
                    await asyncio.sleep(0)
            case "cut":
                lines[which].cut()
            case "mend":
                lines[which].mend()


async def nothing_is_left(router: RunningRouter, experts: list[RunningExpert]) -> bool:
    return not any(expert.engine.held for expert in experts) and await router.outstanding() == 0


@given(steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_no_token_is_lost_doubled_reordered_or_given_to_another(todo: list[tuple[str, int, int]]) -> None:
    async with AsyncExitStack() as life:
        slow = Simulation(step_base_s=0.0005)
        experts = [
            await life.enter_async_context(running_expert("general", name=f"replica-{number}", simulation=slow))
            for number in range(REPLICAS)
        ]
        lines = [await life.enter_async_context(cable(expert.port)) for expert in experts]
        router = await life.enter_async_context(running_router(*(line.target for line in lines)))
        callers = [Caller(Talk(router.inference)) for _ in range(SESSIONS)]

        await drive(todo, callers, lines)
        await asyncio.gather(*(caller.finish() for caller in callers))

        for caller in callers:
            caller.check()
        if len({which for step, which, _ in todo if step == "cut"}) < REPLICAS:  # somebody could always take over
            failed = [answer.error for caller in callers for answer in caller.talk.answers.values() if answer.error]
            assert not failed
        for line in lines:
            line.mend()
        await eventually(lambda: nothing_is_left(router, experts))
