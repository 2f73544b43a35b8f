"""The whole way of a prompt that is answered: caller, router, expert."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from expert_svc.answers import ExpertAnswers
from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Role, RouteReason, TokenIds
from expertmesh.v1.router_pb2 import RouteRequest
from mesh_wire.asked import Asked
from mesh_wire.errors import BadInput, Busy, MeshError, NotFound, Unavailable
from router_svc.strategies.artefact import save
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.corpora import small_artefact
from support.engines import ByHand, Failing
from support.mesh import RunningRouter, running_mesh, running_router
from support.strategies import ByWord
from support.waiting import eventually

WORDS = {"sum": "math", "bug": "coding", "court": "law", "dinner": "general"}
CONFIDENT, UNSURE = RouteReason.ROUTE_REASON_CONFIDENT, RouteReason.ROUTE_REASON_UNSURE
UNSERVED, PINNED = RouteReason.ROUTE_REASON_UNSERVED, RouteReason.ROUTE_REASON_PINNED


@pytest.fixture
async def mesh() -> AsyncIterator[RunningRouter]:
    experts = {"a": ["general", "math"], "b": ["coding"]}
    async with running_mesh(experts, strategy=ByWord(WORDS), threshold=0.6) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("prompt", "expert", "replica", "reason"),
    [
        ("what is the sum of two and two", "math", "a", CONFIDENT),
        ("find the bug", "coding", "b", CONFIDENT),
        ("what is for dinner", "general", "a", CONFIDENT),
        ("hello", "general", "a", UNSURE),
        ("take it to court", "general", "a", UNSERVED),
    ],
)
async def test_a_prompt_reaches_its_expert(
    mesh: RunningRouter, prompt: str, expert: str, replica: str, reason: RouteReason
) -> None:
    answer = await whole(mesh.inference.Generate(greedy(prompt)))

    assert answer.route is not None
    assert (answer.route.expert, answer.route.replica, answer.route.reason) == (expert, replica, reason)
    assert (answer.text, answer.token_ids) == expected_answer(expert, greedy(prompt))


async def test_the_route_comes_first_and_once_and_the_end_last_and_once(mesh: RunningRouter) -> None:
    answer = await whole(mesh.inference.Generate(greedy("sum", max_new_tokens=40)))

    assert answer.order[0] == "route"
    assert set(answer.order[1:-1]) == {"delta"}
    assert answer.order[-1] == "finished"


async def test_the_route_explains_itself(mesh: RunningRouter) -> None:
    route = (await whole(mesh.inference.Generate(greedy("sum")))).route

    assert route is not None
    assert route.score == pytest.approx(0.9)
    assert [one.expert for one in route.runners_up] == ["coding", "general", "law"]
    assert sum(one.score for one in route.runners_up) == pytest.approx(0.1)
    assert (route.strategy, route.artefact, route.attempt) == ("by_word", "words-1", 1)
    assert "0.90" in route.explanation


async def test_every_stage_has_its_time(mesh: RunningRouter) -> None:
    finished = (await whole(mesh.inference.Generate(greedy("sum")))).finished

    assert finished is not None
    stages = {field.name: value.ToNanoseconds() for field, value in finished.timings.ListFields()}
    assert set(stages) == {"admit", "classify", "select", "forward", "queue", "prefill", "decode"}
    assert all(ns >= 0 for ns in stages.values())


async def test_a_named_expert_answers_without_being_scored(mesh: RunningRouter) -> None:
    request = greedy("sum")
    request.expert = "coding"

    answer = await whole(mesh.inference.Generate(request))

    assert answer.route is not None
    assert (answer.route.expert, answer.route.reason, answer.route.score) == ("coding", PINNED, 0)
    assert answer.route.strategy == ""
    assert answer.finished is not None
    assert not answer.finished.timings.HasField("classify")


async def test_a_conversation_is_routed_by_its_last_user_turn(mesh: RunningRouter) -> None:
    turns = [(Role.ROLE_USER, ["sum"]), (Role.ROLE_ASSISTANT, ["4"]), (Role.ROLE_USER, ["my parser has ", "a bug"])]
    messages = [ChatMessage(role=role, parts=[Part(text=text) for text in texts]) for role, texts in turns]
    request = GenerateRequest(chat=Chat(messages=messages), sampling=greedy().sampling)

    answer = await whole(mesh.inference.Generate(request))

    assert answer.route is not None
    assert answer.route.expert == "coding"
    assert answer.text == expected_answer("coding", request)[0]


async def test_token_ids_cannot_be_read_and_go_to_the_generalist(mesh: RunningRouter) -> None:
    request = GenerateRequest(token_ids=TokenIds(ids=[5, 6, 7]), sampling=greedy().sampling)

    answer = await whole(mesh.inference.Generate(request))

    assert answer.route is not None
    assert (answer.route.expert, answer.route.reason) == ("general", UNSURE)
    assert answer.route.strategy == ""
    assert answer.finished is not None
    assert answer.finished.usage.prompt_tokens == 3


async def test_a_session_with_the_router_is_as_one_with_an_expert(mesh: RunningRouter) -> None:
    talk = Talk(mesh.inference)
    prompts = {1: "sum", 2: "bug", 3: "dinner"}
    for number, prompt in prompts.items():
        await talk.start(number, greedy(prompt), caller="tests")
    await talk.until_over(*prompts)

    for number, expert in {1: "math", 2: "coding", 3: "general"}.items():
        answer = talk.answers[number]
        assert answer.order[0] == "route"
        assert answer.order.count("route") == 1
        assert answer.route is not None
        assert answer.route.expert == expert
        assert answer.text == expected_answer(expert, greedy(prompts[number]))[0]
    await talk.hang_up()


async def test_logprobs_and_matches_pass_both_hops(mesh: RunningRouter) -> None:
    text, _ = expected_answer("math", greedy("sum"))
    request = greedy("sum", logprobs=3, stop=[text[20:24]])
    call, logprobs = mesh.inference.Generate(request), []
    async for event in call:
        logprobs += event.delta.logprobs
        if event.HasField("finished"):
            assert event.finished.stop_string == text[20:24]

    assert logprobs
    assert all(len(entry.top) == 3 for entry in logprobs)


async def test_the_clusters_of_an_artefact_route_end_to_end(tmp_path: Path) -> None:
    save(tmp_path / "artefact", small_artefact())
    experts = {"a": ["general", "math"], "b": ["coding", "health", "law"]}
    async with running_mesh(experts, strategy="clusters", artefact=tmp_path / "artefact") as mesh:
        prompt = "solve the integral equation and prove the theorem of the triangle"
        answer = await whole(mesh.inference.Generate(greedy(prompt)))

        assert answer.route is not None
        assert (answer.route.expert, answer.route.strategy) == ("math", "clusters")
        assert answer.route.artefact == (await mesh.fleet()).artefact != ""


# The decision alone


async def test_route_says_where_to_go_and_asks_nobody(mesh: RunningRouter) -> None:
    told = await mesh.routing.Route(RouteRequest(request=greedy("sum")))

    assert (told.route.expert, told.route.replica, told.route.reason) == ("math", "a", CONFIDENT)
    assert told.endpoint == mesh.experts["a"].target
    assert [one.expert for one in told.scores] == ["math", "coding", "general", "law"]
    assert sum(one.score for one in told.scores) == pytest.approx(1)
    assert (told.threshold, told.margin) == (0.6, pytest.approx(0.9 - 0.1 / 3))
    assert [one.replica for one in told.replicas] == ["a"]
    assert {field.name for field, _ in told.timings.ListFields()} == {"admit", "classify", "select"}
    assert mesh.experts["a"].engine.held == 0


async def test_a_route_can_be_followed(mesh: RunningRouter) -> None:
    told = await mesh.routing.Route(RouteRequest(request=greedy("sum")))
    request = greedy("sum")
    request.expert = told.route.expert

    answer = await whole(mesh.experts[told.route.replica].inference.Generate(request))

    assert answer.text == expected_answer("math", request)[0]


@pytest.mark.parametrize(
    ("request_", "kind", "reason"),
    [
        (RouteRequest(), BadInput, "INPUT_MISSING"),
        (RouteRequest(request={"prompt": "a", "expert": "cooking"}), NotFound, "EXPERT_UNKNOWN"),
        (RouteRequest(request={"prompt": " "}), BadInput, "PROMPT_EMPTY"),
    ],
)
async def test_route_refuses_as_generate_does(
    mesh: RunningRouter, request_: RouteRequest, kind: type[MeshError], reason: str
) -> None:
    error = await failure(mesh.routing.Route(request_))

    assert isinstance(error, kind)
    assert error.reason == reason


async def test_the_fleet_is_listed(mesh: RunningRouter) -> None:
    fleet = await mesh.fleet()

    assert [(one.name, one.available) for one in fleet.experts] == [("coding", True), ("general", True), ("math", True)]
    replica = fleet.experts[2].replicas[0]
    assert (replica.name, replica.endpoint, replica.serving) == ("a", mesh.experts["a"].target, True)
    assert replica.description.engine == "simulated"
    assert (fleet.generalist, fleet.strategy, list(fleet.unreachable)) == ("general", "by_word", [])


# What passes through unchanged


ERRORS = [
    BadInput("too long", reason="PROMPT_TOO_LONG", prompt_tokens="9", context_length="8"),
    BadInput("no such token", reason="TOKEN_OUT_OF_VOCABULARY", field="token_ids.ids[3]", vocabulary_size="50"),
    BadInput("no", reason="REQUEST_REFUSED"),
    Busy("full", reason="EXPERT_BUSY", retry_after_s=1.25, tokens_sent="0"),
    Unavailable("gone", reason="ENGINE_DEAD", tokens_sent="0"),
    NotFound("who?", reason="EXPERT_UNKNOWN", field="expert", expert="x", known="y"),
]


@pytest.mark.parametrize("error", ERRORS, ids=[error.reason for error in ERRORS])
async def test_an_expert_s_error_passes_through_the_router_unchanged(error: MeshError) -> None:
    async with running_mesh({"a": Failing(error)}) as mesh:
        through = await failure(mesh.inference.Generate(greedy()))

        assert type(through) is type(error)
        assert (through.message, through.reason, through.field) == (error.message, error.reason, error.field)
        assert (through.facts, through.retry_after_s) == (error.facts, error.retry_after_s)


async def test_a_fault_of_the_expert_passes_through_by_its_id() -> None:
    async with running_mesh({"a": Failing(KeyError("xyzzy"))}) as mesh:
        error = await failure(mesh.inference.Generate(GenerateRequest(prompt="a", request_id="mine")))

        assert (error.reason, error.facts) == ("INTERNAL", {"request_id": "mine"})


async def test_bad_input_never_reaches_an_expert() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        assert (await failure(mesh.inference.Generate(GenerateRequest()))).reason == "INPUT_MISSING"
        assert not engine.requests


class Spy:
    """Sees what an expert is told beside the request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Asked] = []
        answer = ExpertAnswers.answer

        async def seen(answers: ExpertAnswers, request: GenerateRequest, asked: Asked, outlet: Any) -> None:
            self.asked.append(asked)
            await answer(answers, request, asked, outlet)

        monkeypatch.setattr(ExpertAnswers, "answer", seen)


async def test_what_is_left_of_the_deadline_travels(mesh: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    await whole(mesh.inference.Generate(greedy(), timeout=1000))
    await whole(mesh.inference.Generate(greedy()))
    talk = Talk(mesh.inference)
    await talk.start(1, greedy(), timeout_s=1000)
    await talk.until_over(1)

    left = [asked.deadline.left_s() for asked in spy.asked]
    assert left[1] is None
    assert left[0] is not None
    assert left[2] is not None
    assert 0 < left[0] <= 1020  # gRPC's own header rounds up, by a hundredth
    assert 0 < left[2] <= 1000


async def test_the_caller_s_name_travels(mesh: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    talk = Talk(mesh.inference)
    await talk.start(1, greedy(), caller="Ada")
    await talk.until_over(1)

    assert spy.asked[0].caller == "Ada"


async def test_a_request_s_name_travels_and_comes_back() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        call = mesh.inference.Generate(GenerateRequest(prompt="a", request_id="mine"))
        await eventually(lambda: engine.held == 1)
        engine.finish()
        answer = await whole(call)

        assert engine.requests[0].request_id == "mine"
        assert answer.finished is not None
        assert answer.finished.request_id == "mine"


async def test_a_deadline_frees_the_place_everywhere() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        talk = Talk(mesh.inference)
        await talk.start(1, greedy(), timeout_s=0.1)
        await talk.until_over(1)

        error = talk.answers[1].error
        assert error is not None
        assert error.reason == "DEADLINE_PASSED"
        await eventually(lambda: engine.held == 0)


async def test_a_full_router_says_when_to_come_back() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}, max_in_flight=1) as mesh:
        inside = mesh.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)

        error = await failure(mesh.inference.Generate(greedy()))
        assert isinstance(error, Busy)
        assert (error.reason, error.retry_after_s) == ("ROUTER_BUSY", 0.5)
        assert (await failure(mesh.routing.Route(RouteRequest(request=greedy())))).reason == "ROUTER_BUSY"

        engine.finish()
        assert (await whole(inside)).finished
        assert (await mesh.routing.Route(RouteRequest(request=greedy()))).endpoint


# The controls, and experts behind targets alone


async def test_round_robin_takes_turns() -> None:
    async with running_mesh({"a": ["general", "math"]}, strategy="round_robin") as mesh:
        answers = await asyncio.gather(*(whole(mesh.inference.Generate(greedy())) for _ in range(4)))

    assert sorted(answer.route.expert for answer in answers if answer.route) == ["general"] * 2 + ["math"] * 2


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
async def test_the_controls_find_out_who_stands_behind_targets(mesh: RunningRouter, strategy: str) -> None:
    targets = [expert.target for expert in mesh.experts.values()]
    async with running_router(*targets, strategy=strategy) as other:
        told = await other.routing.Route(RouteRequest(request=greedy()))

        assert {one.expert for one in told.scores} == {"general", "math", "coding"}


async def test_an_expert_can_be_pinned_behind_targets(mesh: RunningRouter) -> None:
    targets = [expert.target for expert in mesh.experts.values()]
    async with running_router(*targets, strategy="pinned", pinned="coding") as other:
        answer = await whole(other.inference.Generate(greedy()))

        assert answer.route is not None
        assert answer.route.expert == "coding"
