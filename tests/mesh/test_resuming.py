"""Answers whose replica fails them in their midst: they go on at another, and their callers have them whole."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count

import grpc
import pytest

from expert_svc.engine import EngineDied
from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import GenerateRequest, Precision, Resume, Sampling, StructuredOutput
from mesh_wire.errors import DeadlinePassed, Unavailable
from mesh_wire.settings import Simulation
from support.asking import greedy, vacated
from support.cable import Cable, cable
from support.calls import Talk, Whole, failure, whole
from support.engines import ByHand, Failing
from support.mesh import RunningExpert, RunningRouter, running_expert, running_mesh, running_router
from support.otlp import collecting, telemetry_to
from support.waiting import eventually

PACE = Simulation(step_base_s=0.002)
STALL_S = 1.5
_numbers = count(1)


@dataclass
class Site:
    """Replicas of one expert behind cables, and a router before them."""

    experts: list[RunningExpert]
    lines: list[Cable]
    router: RunningRouter

    @property
    def held(self) -> list[int]:
        """Requests in each replica's engine."""
        return [expert.engine.held for expert in self.experts]

    def busiest(self) -> int:
        return max(range(len(self.held)), key=self.held.__getitem__)


@asynccontextmanager
async def site(replicas: int = 3, simulation: Simulation = PACE, **section: object) -> AsyncIterator[Site]:
    async with AsyncExitStack() as life:
        experts = [
            await life.enter_async_context(running_expert("general", name=f"replica-{at}", simulation=simulation))
            for at in range(replicas)
        ]
        lines = [await life.enter_async_context(cable(expert.port)) for expert in experts]
        targets = [line.target for line in lines]
        router = await life.enter_async_context(running_router(*targets, **section))
        yield Site(experts, lines, router)


def question(tokens: int = 60, **sampling: object) -> GenerateRequest:
    wishes = Sampling(**{"max_new_tokens": tokens, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
    return GenerateRequest(prompt=f"question {next(_numbers)}", expert="general", sampling=wishes)


def check(answer: Whole, request: GenerateRequest) -> None:
    """Hold an answer against what it would have been without any failure."""
    text, tokens = expected_answer("general", request)
    assert answer.error is None
    assert (answer.text, answer.token_ids) == (text, tokens)
    assert answer.order[0] == "route"
    assert "route" not in answer.order[1:]
    assert answer.finished is not None
    assert answer.finished.usage.completion_tokens == len(tokens)


async def lose_line(site: Site, at: int) -> None:
    site.lines[at].cut()


async def lose_engine(site: Site, at: int) -> None:
    site.experts[at].engine.die("shot")


async def hang_engine(site: Site, at: int) -> None:
    site.experts[at].engine.stall()


async def swallow(site: Site, at: int) -> None:
    site.lines[at].swallow()


@pytest.mark.parametrize("fail", [lose_line, lose_engine, hang_engine, swallow], ids=lambda fail: fail.__name__)
async def test_nobody_loses_or_doubles_a_token_when_a_replica_fails_under_many_streams(
    fail: Callable[[Site, int], Awaitable[None]],
) -> None:
    async with site(stall_s=STALL_S) as mesh:
        talk = Talk(mesh.router.inference)
        shared = {number: question(250) for number in range(1, 31)}
        for number, request in shared.items():
            await talk.start(number, request)
        own = [question(250) for _ in range(15)]
        calls = [asyncio.create_task(whole(mesh.router.inference.Generate(request))) for request in own]
        await talk.until_text(1)
        await eventually(lambda: max(mesh.held) > 5)

        await fail(mesh, mesh.busiest())

        await talk.until_over(*shared)
        answers = await asyncio.gather(*calls)
        for number, request in shared.items():
            check(talk.answers[number], request)
        for answer, request in zip(answers, own, strict=True):
            check(answer, request)
        ends = [answer.finished for answer in (*answers, *talk.answers.values())]
        assert sum(end.resumed for end in ends if end is not None) > 0
        for line in mesh.lines:
            line.mend()
        for expert in mesh.experts:
            expert.engine.resume()
        await eventually(lambda: sum(mesh.held) == 0)


async def test_an_answer_may_lose_two_replicas() -> None:
    async with site() as mesh:
        request = question(400)
        call = mesh.router.inference.Generate(request)
        answer = Whole()
        for tokens in (50, 250):  # far apart: what the first replica sent last is not what the second one sent
            await begun(call, answer, tokens)
            mesh.lines[losing := mesh.busiest()].cut()
            await eventually(lambda losing=losing: not mesh.held[losing] and sum(mesh.held) == 1)
        while not answer.over:
            answer.take(await call.read())

    check(answer, request)
    assert answer.finished is not None
    assert answer.finished.resumed == 2


@pytest.mark.parametrize("cut", range(1, 13))
async def test_a_stop_string_across_the_seam_ends_the_answer_as_it_would_have(cut: int) -> None:
    """The first replica dies when it has said `cut` tokens; the stop string straddles the seventh and the eighth."""
    plain, _ = expected_answer("general", greedy("Tell.", max_new_tokens=12))
    words = plain.split()
    stop = f"{words[6][-2:]} {words[7][:2]}"
    request = GenerateRequest(prompt="Tell.", expert="general", sampling=Sampling(max_new_tokens=12, stop=[stop]))
    dying = Simulation(dies_after_tokens=cut, step_base_s=0.001)
    async with (
        running_expert("general", name="a-dying", simulation=dying) as one,
        running_expert("general", name="b", simulation=PACE) as two,
        running_router(one.target, two.target) as mesh,
    ):
        await _settled(mesh, 2)
        answer = await whole(mesh.inference.Generate(request))

    text, tokens = expected_answer("general", request)
    assert (answer.text, answer.token_ids) == (text, tokens)
    assert answer.finished is not None
    assert (answer.finished.stop_string, answer.finished.usage.completion_tokens) == (stop, len(tokens))


async def _settled(mesh: RunningRouter, replicas: int) -> None:
    async def up() -> bool:
        return len(await mesh.serving()) == replicas

    await eventually(up)


async def test_logprobs_go_on_one_for_each_token() -> None:
    async with site(2) as mesh:
        request = question(300, logprobs=2)
        call = mesh.router.inference.Generate(request)
        seen: list[int] = []
        tokens: list[int] = []
        finished = None
        while (event := await call.read()) is not grpc.aio.EOF:
            seen += [entry.drawn.token_id for entry in event.delta.logprobs]
            tokens += event.delta.token_ids
            if len(tokens) and finished is None:
                mesh.lines[mesh.busiest()].cut()
                finished = event.finished
            if event.HasField("finished"):
                finished = event.finished

    assert seen == tokens == expected_answer("general", request)[1]
    assert finished is not None
    assert finished.resumed == 1


async def test_both_attempts_stand_in_the_trace_under_one_request() -> None:
    first, second = ByHand(), ByHand()
    with collecting() as collector:
        with telemetry_to(collector) as (telemetry, _):
            async with running_mesh({"a": first, "b": second}, telemetry=telemetry) as mesh:
                await _settled(mesh, 2)
                call, answer = mesh.inference.Generate(greedy()), Whole()
                await eventually(lambda: first.held + second.held == 1)
                dying, other = (first, second) if first.held else (second, first)
                dying.say()
                await begun(call, answer, 1)
                dying.die()
                await eventually(lambda: other.held == 1)
                other.finish()
                while not answer.over:
                    answer.take(await call.read())
        calls = collector.named("expert call")
        [request] = collector.named("expertmesh.v1.InferenceService/Generate")
        resumes = collector.metrics["expertmesh.route.resumes"]

    assert [call.parent_id for call in calls] == [request.span_id] * 2
    names = ("expertmesh.attempt", "expertmesh.resumed_tokens", "error.type")
    assert [tuple(map(call.attributes.get, names)) for call in calls] == [(1, 0, "ENGINE_DEAD"), (2, 1, None)]
    assert request.attributes["expertmesh.resumed"] == 1
    assert [point.as_int for point in resumes][-1:] == [1]


# By hand: what exactly is asked, and what is not


@asynccontextmanager
async def two_by_hand(**section: object) -> AsyncIterator[tuple[RunningRouter, ByHand, ByHand]]:
    first, second = ByHand(), ByHand()
    async with running_mesh({"a": first, "b": second}, **section) as mesh:
        await _settled(mesh, 2)
        yield mesh, first, second


async def begun(call: "grpc.aio.UnaryStreamCall", answer: Whole, tokens: int) -> None:
    while len(answer.token_ids) < tokens:
        answer.take(await call.read())


async def test_the_rest_is_asked_for_with_what_the_caller_has() -> None:
    async with two_by_hand() as (mesh, first, second):
        call, answer = mesh.inference.Generate(greedy(temperature=0.5, seed=9, stop=["end"])), Whole()
        await eventually(lambda: first.held + second.held == 1)
        dying, other = (first, second) if first.held else (second, first)
        dying.say("né")
        dying.say("e ")
        await begun(call, answer, 2)

        dying.die("out of memory")

        await eventually(lambda: other.held == 1)
        [rest] = other.requests
        assert rest.resume == Resume(token_ids=[7, 7], text="née ", times=1)
        assert rest.sampling == greedy(temperature=0.5, seed=9, stop=["end"]).sampling
        assert (rest.prompt, rest.expert) == (greedy().prompt, "general")
        other.say("late")
        other.finish()
        while not answer.over:
            answer.take(await call.read())
    assert (answer.text, answer.token_ids) == ("née late", [7, 7, 7])
    assert answer.order.count("route") == 1
    assert answer.finished is not None
    assert answer.finished.resumed == 1


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(presence_penalty=1), "sampling.presence_penalty"),
        (Sampling(frequency_penalty=1), "sampling.frequency_penalty"),
        (Sampling(structured_output=StructuredOutput(regex="[a-z ]+")), "sampling.structured_output"),
    ],
    ids=["presence", "frequency", "structure"],
)
async def test_what_cannot_go_on_rightly_ends_by_name(sampling: Sampling, field: str) -> None:
    async with two_by_hand() as (mesh, first, second):
        call, answer = mesh.inference.Generate(GenerateRequest(prompt="a", sampling=sampling)), Whole()
        await eventually(lambda: first.held + second.held == 1)
        dying, other = (first, second) if first.held else (second, first)
        dying.say()
        await begun(call, answer, 1)
        dying.die()

        error = await failure(call)

    assert isinstance(error, Unavailable)
    assert (error.reason, error.field) == ("RESUME_UNSUPPORTED", field)
    assert error.facts["tokens_sent"] == "1"
    assert not other.requests


async def test_an_expert_without_another_replica_ends_as_it_failed() -> None:
    """Another expert's tokens are no continuation."""
    alone, other = ByHand("math"), ByHand("general")
    async with running_mesh({"a": alone, "b": other}) as mesh:
        await _settled(mesh, 2)
        call = mesh.inference.Generate(GenerateRequest(prompt="a", expert="math"))
        await eventually(lambda: alone.held == 1)
        alone.say()
        await begun(call, Whole(), 1)
        alone.die()

        error = await failure(call)

    assert (error.reason, error.facts["tokens_sent"]) == ("ENGINE_DEAD", "1")
    assert not other.requests


@pytest.mark.parametrize(("precision", "goes_on"), [("PRECISION_UNSPECIFIED", True), ("PRECISION_FULL", False)])
async def test_the_twin_in_lower_precision_takes_over_unless_it_is_refused(precision: str, goes_on: bool) -> None:
    full, twin = ByHand(), ByHand()
    async with (
        running_expert(name="full", engine=full) as one,
        running_expert(name="twin", engine=twin, variants={"general": "int8"}) as two,
        running_router(one.target, two.target) as mesh,
    ):
        await _settled(mesh, 2)
        wish = Precision.Value(precision)
        call = mesh.inference.Generate(GenerateRequest(prompt="a", expert="general", precision=wish))
        await eventually(lambda: full.held == 1)
        full.say()
        await begun(call, answer := Whole(), 1)
        full.die()
        if goes_on:
            await eventually(lambda: twin.held == 1)
            twin.finish()
            while not answer.over:
                answer.take(await call.read())
        else:
            assert (await failure(call)).reason == "ENGINE_DEAD"
            assert not twin.requests


async def test_an_answer_moves_three_times_at_most() -> None:
    engines = {name: Failing(EngineDied("shot"), after_tokens=1) for name in ("a", "b", "c")}
    async with running_mesh(engines) as mesh:
        await _settled(mesh, 3)
        error = await failure(mesh.inference.Generate(greedy()))

    assert (error.reason, error.facts["tokens_sent"]) == ("ENGINE_DEAD", "4")
    assert sum(len(engine.requests) for engine in engines.values()) == 4


async def test_a_deadline_passes_while_an_answer_is_being_resumed() -> None:
    async with two_by_hand() as (mesh, first, second):
        call, answer = mesh.inference.Generate(greedy(), timeout=2), Whole()
        await eventually(lambda: first.held + second.held == 1)
        dying, other = (first, second) if first.held else (second, first)
        dying.say()
        await begun(call, answer, 1)
        dying.die()
        await eventually(lambda: other.held == 1)

        error = await failure(call)

        assert isinstance(error, DeadlinePassed)
        await eventually(lambda: other.held == 0)


async def test_a_caller_that_leaves_while_its_answer_is_resumed_frees_the_place() -> None:
    async with two_by_hand() as (mesh, first, second):
        talk = Talk(mesh.inference)
        await talk.start(1, greedy())
        await eventually(lambda: first.held + second.held == 1)
        dying, other = (first, second) if first.held else (second, first)
        dying.say()
        await talk.until_text(1)
        dying.die()
        await eventually(lambda: other.held == 1)

        await talk.cancel(1)

        await eventually(lambda: vacated(other.board.latest))
        await talk.hang_up()
    assert not talk.answers[1].over


async def test_a_request_that_comes_again_is_no_copy_to_a_replica_that_never_heard_of_its_end() -> None:
    engine = ByHand()
    async with (
        running_expert("general", engine=engine) as expert,
        cable(expert.port) as line,
        running_router(line.target) as router,
    ):
        request = greedy()
        request.request_id = "once"
        call = router.inference.Generate(request)
        await eventually(lambda: engine.held == 1)
        line.forget()
        assert (await failure(call)).reason == "EXPERT_LOST"
        await _settled(router, 1)

        again = asyncio.create_task(whole(router.inference.Generate(request)))

        await eventually(lambda: engine.held == 2 or again.done())
        engine.finish()
        answer = await again
        assert answer.error is None
        assert answer.finished is not None
        assert (answer.finished.request_id, answer.finished.resumed) == ("once", 0)


async def test_a_pause_that_a_replica_names_is_kept_and_another_is_asked_then() -> None:
    refusal = Unavailable("not now", reason="REQUEST_REFUSED", retry_after_s=0.2)
    engines = {name: Failing(refusal) for name in ("a", "b")}
    async with running_mesh(engines) as mesh:
        await _settled(mesh, 2)
        began = asyncio.get_running_loop().time()
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "REQUEST_REFUSED"
        assert asyncio.get_running_loop().time() - began >= 0.2
        assert sum(len(engine.requests) for engine in engines.values()) == 2

        no_time = mesh.inference.Generate(greedy(), timeout=0.19)
        assert (await failure(no_time)).reason in ("REQUEST_REFUSED", "DEADLINE_PASSED")
    assert sum(len(engine.requests) for engine in engines.values()) <= 3


async def test_a_budget_ends_a_storm_of_second_tries() -> None:
    refusal = Unavailable("not now", reason="REQUEST_REFUSED")
    engines = {name: Failing(refusal) for name in ("a", "b")}
    async with running_mesh(engines) as mesh:
        await _settled(mesh, 2)
        errors = [await failure(mesh.inference.Generate(greedy())) for _ in range(60)]

    assert {error.reason for error in errors} == {"REQUEST_REFUSED"}
    asked = sum(len(engine.requests) for engine in engines.values())
    assert 60 < asked <= 60 + 10 + 60 * 0.2  # what was saved, and a fifth of the requests


async def test_a_replica_that_hangs_keeps_its_requests_where_nobody_else_could_take_them() -> None:
    async with site(1, stall_s=0.1) as mesh:
        request = question(200)
        call, answer = mesh.router.inference.Generate(request), Whole()
        await begun(call, answer, 1)
        mesh.experts[0].engine.stall()
        await eventually(lambda: not mesh.experts[0].engine.board.latest.tokens_per_second)

        mesh.experts[0].engine.resume()

        while not answer.over:
            answer.take(await call.read())
    check(answer, request)
    assert answer.finished is not None
    assert answer.finished.resumed == 0


# A caller that brings the beginning of an answer


@pytest.mark.parametrize("over", ["generate", "session"])
async def test_a_caller_goes_on_with_what_it_has(over: str) -> None:
    async with site(2) as mesh:
        request = question(20)
        text, tokens = expected_answer("general", request)
        words = text.split(" ")
        request.resume.CopyFrom(Resume(token_ids=tokens[:7], text=" ".join(words[:8])))
        if over == "generate":
            answer = await whole(mesh.router.inference.Generate(request))
        else:
            talk = Talk(mesh.router.inference)
            await talk.start(1, request)
            await talk.until_over(1)
            answer = talk.answers[1]
            await talk.hang_up()

    assert (answer.text, answer.token_ids) == (text[len(" ".join(words[:8])) :], tokens[7:])
    assert answer.finished is not None
    assert (answer.finished.resumed, answer.finished.usage.completion_tokens) == (1, 20)


async def test_a_caller_that_goes_on_names_the_expert() -> None:
    async with site(1) as mesh:
        request = GenerateRequest(prompt="a", resume=Resume(token_ids=[1]))
        error = await failure(mesh.router.inference.Generate(request))

    assert (error.reason, error.field) == ("RESUME_INVALID", "expert")


async def test_a_caller_that_goes_on_need_not_wait_until_its_first_part_is_known_to_be_over() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        named = GenerateRequest(request_id="same", prompt="a", expert="general")
        first = mesh.inference.Generate(named)
        await eventually(lambda: engine.held == 1)

        named.resume.CopyFrom(Resume(token_ids=[7], text="word "))
        second = mesh.inference.Generate(named)

        await eventually(lambda: engine.held == 2)
        engine.finish()
        assert [(await whole(call)).finished is not None for call in (first, second)] == [True, True]
