"""Load, twins and conversations: who answers in a mesh whose replicas differ."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from typer.testing import CliRunner

from expert_svc.load_board import SHORTEST_PAUSE_S, LoadBoard
from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.expert_pb2 import DescribeRequest, Load
from expertmesh.v1.generation_pb2 import (
    Affinity,
    Chat,
    ChatMessage,
    GenerateRequest,
    Part,
    Precision,
    Role,
    RouteChosen,
    RouteReason,
)
from expertmesh.v1.router_pb2 import RouteRequest, RouteResponse
from expertmesh_client import AsyncClient, Client
from expertmesh_client.cli import app
from mesh_wire.deadlines import duration
from mesh_wire.errors import NotFound, Unavailable
from router_svc.replay import again, read
from router_svc.replicas import fleet as fleets
from support.asking import greedy
from support.calls import failure, whole
from support.engines import ByHand
from support.mesh import RunningExpert, RunningRouter, running_expert, running_mesh, running_router
from support.otlp import collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

WORDS = {"sum": "math", "bug": "coding", "dinner": "general"}
SIBLING, SPILLED, CONFIDENT = (
    RouteReason.ROUTE_REASON_SIBLING,
    RouteReason.ROUTE_REASON_SPILLED,
    RouteReason.ROUTE_REASON_CONFIDENT,
)
FULL, LOWER = Precision.PRECISION_FULL, Precision.PRECISION_LOWER
SLOW = Load(step_time=duration(10))


class Twins:
    """A router before an expert and its int8 twin."""

    def __init__(self, router: RunningRouter, full: RunningExpert, twin: RunningExpert, engine: ByHand) -> None:
        self.router, self.full, self.twin, self.engine = router, full, twin, engine

    async def route(self, **more: Any) -> RouteChosen:
        request = GenerateRequest(prompt="sum", **more)
        return (await self.router.routing.Route(RouteRequest(request=request))).route


@asynccontextmanager
async def twins(**router: Any) -> AsyncIterator[Twins]:
    engine = ByHand("math", "general")
    async with AsyncExitStack() as life:
        full = await life.enter_async_context(running_expert(name="full", engine=engine))
        twin = await life.enter_async_context(running_expert("math", name="twin", variants={"math": "int8"}))
        mesh = await life.enter_async_context(
            running_router(full.target, twin.target, strategy=ByWord(WORDS), threshold=0.6, **router)
        )
        yield Twins(mesh, full, twin, engine)


async def told(mesh: Twins, load: Load) -> None:
    """Have the router know a load of the expert itself."""
    mesh.engine.board.post(load)

    async def known() -> bool:
        fleet = await mesh.router.fleet()
        return any(replica.load == load for expert in fleet.experts for replica in expert.replicas)

    await eventually(known)


async def test_a_twin_says_what_it_is() -> None:
    async with twins() as mesh:
        described = await mesh.twin.expert.Describe(DescribeRequest())
        assert [(one.name, one.variant) for one in described.experts] == [("math", "int8")]
        fleet = await mesh.router.fleet()
        [math] = [one for one in fleet.experts if one.name == "math"]
        assert sorted(one.description.experts[0].variant for one in math.replicas) == ["", "int8"]


async def test_a_twin_answers_while_its_expert_is_busy_and_the_answer_says_so() -> None:
    async with twins() as mesh:
        assert (await mesh.route()).reason == CONFIDENT
        await told(mesh, SLOW)

        answer = await whole(mesh.router.inference.Generate(greedy("sum")))

        assert answer.route is not None
        assert (answer.route.expert, answer.route.replica, answer.route.variant) == ("math", "twin", "int8")
        assert answer.route.reason == SIBLING
        assert answer.text == expected_answer("math", greedy("sum"))[0]


async def test_a_twin_answers_where_its_expert_dies_before_the_first_token() -> None:
    async with twins() as mesh:
        call = mesh.router.inference.Generate(greedy("sum"))
        await eventually(lambda: mesh.engine.held == 1)

        mesh.engine.die()

        answer = await whole(call)
        assert answer.route is not None
        assert (answer.route.variant, answer.route.attempt) == ("int8", 2)


async def test_whoever_wants_full_precision_gets_it_and_waits() -> None:
    async with twins() as mesh:
        await told(mesh, SLOW)

        assert (await mesh.route(precision=FULL, expert="math")).variant == ""
        assert (await mesh.route(precision=LOWER)).variant == "int8"


async def test_an_expert_asked_directly_keeps_to_the_precision() -> None:
    async with twins() as mesh:
        for expert, precision in ((mesh.twin, FULL), (mesh.full, LOWER)):
            request = GenerateRequest(prompt="sum", expert="math", precision=precision)
            error = await failure(expert.inference.Generate(request))
            assert isinstance(error, NotFound)
            assert (error.reason, error.field) == ("EXPERT_UNKNOWN", "precision")


async def test_a_crowded_expert_spills_to_the_next_best_and_says_what_lost() -> None:
    engine = ByHand("math")
    async with running_mesh(
        {"a": engine, "b": ["general", "coding"]},
        strategy=ByWord(WORDS, sure=0.6),
        spill_ms_per_point=10,
        quality_floor=0.2,
    ) as mesh:
        await told(Twins(mesh, mesh.experts["a"], mesh.experts["b"], engine), SLOW)

        response = await mesh.routing.Route(RouteRequest(request=greedy("sum")))

        route = response.route
        assert (route.reason, route.spilled_from, route.replica) == (SPILLED, "math", "b")
        assert route.score == pytest.approx(0.2)
        assert "math would wait 10000 ms" in route.explanation
        lost = [option for option in response.options if option.expert == "math"]
        assert [option.verdict for option in lost] == ["would wait 10000 ms"]


async def test_what_route_returned_decides_the_same_offline() -> None:
    async with twins() as mesh:
        for load in (Load(), SLOW):
            await told(mesh, load)
            for request in (
                greedy("sum"),
                greedy("dinner"),
                greedy("hello"),
                GenerateRequest(prompt="a", expert="math"),
            ):
                response: RouteResponse = await mesh.router.routing.Route(RouteRequest(request=request))
                [one] = read(MessageToJson(response))
                assert again(one) == one.outcome


async def test_a_conversation_stays_with_a_replica_whichever_router_it_asks() -> None:
    experts = {name: ["general"] for name in "abcd"}
    async with running_mesh(experts) as mesh:
        targets = [expert.target for expert in mesh.experts.values()]
        async with running_router(*reversed(targets)) as other:
            homes = set()
            for number in range(12):
                request = GenerateRequest(prompt="x", conversation=f"conversation {number}")
                routes = [
                    (await router.routing.Route(RouteRequest(request=request))).route
                    for router in (mesh, other, mesh, other)
                ]
                assert len({route.replica for route in routes}) == 1
                assert {route.affinity for route in routes} == {Affinity.AFFINITY_KEPT}
                homes.add(routes[0].replica)
            assert len(homes) > 1


async def test_later_turns_of_a_chat_go_where_the_turn_before_went() -> None:
    def turns(count: int) -> GenerateRequest:
        said = [(Role.ROLE_USER, "one"), (Role.ROLE_ASSISTANT, "two")] * count + [(Role.ROLE_USER, f"turn {count}")]
        messages = [ChatMessage(role=role, parts=[Part(text=text)]) for role, text in said]
        return GenerateRequest(chat=Chat(messages=messages))

    async with running_mesh({name: ["general"] for name in "abcd"}) as mesh:
        routes = [(await mesh.routing.Route(RouteRequest(request=turns(count)))).route for count in range(5)]

    assert routes[0].affinity == Affinity.AFFINITY_UNSPECIFIED
    assert len({route.replica for route in routes[1:]}) == 1


@pytest.mark.parametrize("direct", [False, True])
async def test_three_turns_of_a_client_s_conversation_go_to_one_replica(direct: bool) -> None:
    async with (
        running_mesh({name: ["general"] for name in "ab"}) as mesh,
        AsyncClient(mesh.target, direct=direct) as client,
    ):
        homes = set()
        for number in range(16):
            routes = []
            for turn in ("one", "two", "three"):  # nothing but the name says that they belong together
                answer = client.generate(turn, conversation=f"c-{number}", sampling={"max_new_tokens": 1})
                await answer.read()
                routes.append(answer.route)
            assert {route and route.affinity for route in routes} == {Affinity.AFFINITY_KEPT}
            assert len({route and route.replica for route in routes}) == 1
            homes.add(routes[0] and routes[0].replica)
        assert homes == {"a", "b"}


async def test_a_conversation_in_the_terminal_keeps_its_replica_from_the_first_turn_on() -> None:
    with collecting() as collector, telemetry_to(collector) as (telemetry, _):
        async with running_mesh({name: ["general"] for name in "ab"}, telemetry=telemetry) as mesh:
            chat = ["chat", "--json", "--max-tokens", "2", "--target", mesh.target]
            result = await asyncio.to_thread(CliRunner().invoke, app, chat, input="one\ntwo\nthree\n")

    assert result.exit_code == 0
    assert len({json.loads(line)["replica"] for line in result.stdout.splitlines()}) == 1
    affinities = [span.attributes.get("expertmesh.affinity") for span in collector.named("route.select")]
    assert affinities == ["kept"] * 3


async def test_a_client_that_wants_full_precision_is_never_answered_by_the_twin() -> None:
    async with running_expert("math", name="twin", variants={"math": "int8"}) as twin:
        async with running_router(twin.target) as mesh, AsyncClient(mesh.target) as client:
            with pytest.raises(Unavailable) as nobody:
                await client.generate("sum", expert="math", precision="full").read()
            lower = client.generate("sum", expert="math", precision="lower", sampling={"max_new_tokens": 1})
            await lower.read()
            told_no = await asyncio.to_thread(
                CliRunner().invoke,
                app,
                ["route", "sum", "--expert", "math", "--precision", "full", "--target", mesh.target],
            )
        async with AsyncClient(twin.target) as direct:
            with pytest.raises(NotFound) as another:
                await direct.chat([("user", "sum")], expert="math", precision="full").read()

    assert nobody.value.reason == "NO_EXPERT"
    assert lower.route is not None
    assert lower.route.variant == "int8"
    assert (told_no.exit_code, told_no.stderr) == (1, "error: NO_EXPERT: no replica of math is up\n")
    assert another.value.field == "precision"


async def test_a_client_without_a_loop_has_the_same_wishes() -> None:
    def asked(target: str) -> tuple[str, str, Affinity]:
        with Client(target) as client:
            full = client.route("sum", expert="math", precision="full").route
            lower = client.route("sum", precision="lower", conversation="c-1").route
            return full.variant, lower.variant, lower.affinity

    async with twins() as mesh:
        await told(mesh, SLOW)

        assert await asyncio.to_thread(asked, mesh.router.target) == ("", "int8", Affinity.AFFINITY_KEPT)


async def test_spilling_twins_and_conversations_are_counted_and_on_the_spans() -> None:
    with collecting() as collector, telemetry_to(collector) as (telemetry, _):
        async with twins(telemetry=telemetry) as mesh:
            await told(mesh, SLOW)
            await whole(mesh.router.inference.Generate(GenerateRequest(prompt="sum", conversation="one")))

    [select] = collector.named("route.select")
    wanted = {
        "expertmesh.expert": "math",
        "expertmesh.reason": "sibling",
        "expertmesh.variant": "int8",
        "expertmesh.affinity": "kept",
    }
    assert wanted.items() <= select.attributes.items()
    [decisions] = collector.metrics["expertmesh.route.decisions"]
    assert {label.key: label.value.string_value for label in decisions.attributes} == wanted


async def test_the_more_replicas_a_router_watches_the_more_seldom_each_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    watch = LoadBoard.watch

    def seen(board: LoadBoard, pause_s: float) -> AsyncGenerator[Load, None]:
        pauses.append(pause_s)
        return watch(board, pause_s)

    monkeypatch.setattr(LoadBoard, "watch", seen)
    async with running_mesh({"a": ["general"], "b": ["general"]}):
        await eventually(lambda: len(pauses) == 2)
        assert set(pauses) == {SHORTEST_PAUSE_S}

    pauses.clear()
    monkeypatch.setattr(fleets, "REPORTS_PER_S", 4)
    async with running_mesh({"a": ["general"], "b": ["general"]}):
        await eventually(lambda: len(pauses) == 2)
        assert set(pauses) == {0.5}
