"""Decisions alone, over one exchange."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from expertmesh.v1.generation_pb2 import RouteReason, Usage
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2 import RouteAnswer, RouteAsk, RouteReport, RouteRequest, RouteSessionRequest
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire.deadlines import duration
from mesh_wire.errors import Busy, MeshError, error_of
from mesh_wire.serving import open_channel
from router_svc.strategies.strategy import Strategy
from support.asking import greedy
from support.calls import whole
from support.engines import ByHand
from support.mesh import RunningRouter, running_mesh
from support.otlp import collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

METHOD = "expertmesh.v1.RouterService/RouteSession/ask"
WORDS = {"sum": "math", "bug": "coding", "dinner": "general"}


class Exchange:
    """One `RouteSession`, spoken by hand."""

    def __init__(self, stub: RouterServiceStub) -> None:
        self.call = stub.RouteSession()
        self.messages = 0
        self._last = 0

    async def ask(self, *prompts: str, **more: Any) -> list[RouteAnswer]:
        """Ask for all in one message; returns the answers in the same order."""
        asks = [ask(self._last + at, prompt, **more) for at, prompt in enumerate(prompts, 1)]
        self._last += len(asks)
        return await self.say(*asks)

    async def say(self, *asks: RouteAsk) -> list[RouteAnswer]:
        await self.call.write(RouteSessionRequest(asks=asks))
        answers: list[RouteAnswer] = []
        while len(answers) < len(asks):
            answers += (await self.call.read()).answers
            self.messages += 1
        return sorted(answers, key=lambda answer: answer.route_id)

    async def report(self, *route_ids: int, **more: Any) -> None:
        reports = [RouteReport(route_id=route_id, **more) for route_id in route_ids]
        await self.call.write(RouteSessionRequest(reports=reports))


def ask(
    route_id: int, prompt: str = "sum", *, expert: str = "", timeout_s: float | None = None, **more: Any
) -> RouteAsk:
    request = greedy(prompt)
    request.expert = expert
    timeout = None if timeout_s is None else duration(timeout_s)
    return RouteAsk(route_id=route_id, request=request, timeout=timeout, **more)


def error(answer: RouteAnswer) -> MeshError:
    assert answer.WhichOneof("outcome") == "failure"
    return error_of(answer.failure)


@pytest.fixture
async def mesh() -> AsyncIterator[RunningRouter]:
    experts = {"a": ["general", "math"], "b": ["coding"]}
    async with running_mesh(experts, strategy=ByWord(WORDS), threshold=0.6) as mesh:
        yield mesh


async def test_a_message_of_asks_is_answered_in_one_message(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)

    answers = await exchange.ask("the sum", "a bug", "hello")

    assert [answer.decision.route.expert for answer in answers] == ["math", "coding", "general"]
    assert [answer.decision.route.reason for answer in answers] == [
        RouteReason.ROUTE_REASON_CONFIDENT,
        RouteReason.ROUTE_REASON_CONFIDENT,
        RouteReason.ROUTE_REASON_UNSURE,
    ]
    assert [answer.decision.endpoint for answer in answers] == [
        mesh.experts["a"].target,
        mesh.experts["b"].target,
        mesh.experts["a"].target,
    ]
    assert exchange.messages == 1


async def test_it_decides_as_route_does_and_explains_itself_when_asked_to(mesh: RunningRouter) -> None:
    alone = await mesh.routing.Route(RouteRequest(request=greedy("sum")))
    [lean] = await Exchange(mesh.routing).ask("sum")
    [full] = await Exchange(mesh.routing).ask("sum", explain=True)

    assert not lean.decision.scores
    assert not lean.decision.route.explanation
    alone.ClearField("timings")
    for either in (alone, full.decision):
        for replica in (*either.replicas, *either.grounds.fleet):
            for moment in ("load", "load_age", "expected_wait"):
                replica.ClearField(moment)
        for option in either.options:
            option.ClearField("expected_wait")
            option.ClearField("verdict")
    assert full.decision == alone


async def test_one_that_fails_does_not_disturb_the_others(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)

    asks = [ask(1, ""), ask(2), ask(3, expert="nobody"), ask(4, timeout_s=0)]
    answers = await exchange.say(*asks, ask(5, "bug", expert="coding", excluded=[mesh.experts["b"].target]), ask(5))

    assert [answer.route_id for answer in answers if answer.HasField("decision")] == [2]
    assert {(answer.route_id, str(error(answer)).split(":")[0]) for answer in answers if answer.route_id != 2} == {
        (1, "PROMPT_EMPTY"),
        (3, "EXPERT_UNKNOWN"),
        (4, "DEADLINE_PASSED"),
        (5, "NO_EXPERT"),
        (5, "STREAM_REUSED"),
    }


async def test_prompts_of_one_message_are_scored_in_one_batch() -> None:
    batches: list[int] = []

    class Counting(ByWord):
        def scores(self, prompts: Any) -> Any:
            batches.append(len(prompts))
            return super().scores(prompts)

    counting: Strategy = Counting(WORDS)
    async with running_mesh({"a": ["general", "math", "coding"]}, strategy=counting) as mesh:
        await Exchange(mesh.routing).ask(*["sum"] * 16)

    assert batches == [16]


async def test_a_reserved_place_counts_until_its_report(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)
    await exchange.ask("sum", "bug", reserve=True)
    await exchange.ask("dinner")
    assert await mesh.outstanding() == 2

    await exchange.report(1, 3, 99, usage=Usage(completion_tokens=5))
    await eventually(lambda: holds(mesh, 1))
    await exchange.report(2)
    await eventually(lambda: holds(mesh, 0))


async def test_a_reserved_place_lapses_with_its_deadline(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)
    await exchange.ask("sum", reserve=True, timeout_s=0.05)

    await eventually(lambda: holds(mesh, 0))


async def test_reserved_places_end_with_their_exchange(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)
    await exchange.ask("sum", "sum", reserve=True)
    assert await mesh.outstanding() == 2

    exchange.call.cancel()

    await eventually(lambda: holds(mesh, 0))


async def holds(mesh: RunningRouter, places: int) -> bool:
    return await mesh.outstanding() == places


async def test_reservations_spread_over_the_replicas_of_an_expert() -> None:
    async with running_mesh({"a": ["general"], "b": ["general"]}) as mesh:
        answers = await Exchange(mesh.routing).ask(*["x"] * 16, reserve=True)

    replicas = [answer.decision.route.replica for answer in answers]
    assert 6 <= replicas.count("a") <= 10


async def test_reservations_are_held_by_admission() -> None:
    async with running_mesh(max_in_flight=3) as mesh:
        exchange = Exchange(mesh.routing)
        answers = await exchange.ask(*["x"] * 5, reserve=True)
        assert [answer.HasField("decision") for answer in answers] == [True] * 3 + [False] * 2
        assert isinstance(error(answers[4]), Busy)

        await exchange.report(1)

        [answer] = await exchange.ask("x", reserve=True)
        assert answer.HasField("decision")


async def test_a_router_that_drains_decides_no_more() -> None:
    async with AsyncExitStack() as life:
        engine = ByHand()
        mesh = await life.enter_async_context(running_mesh({"a": engine}))
        async with open_channel(mesh.target) as channel:  # one that outlives the mesh
            running = asyncio.create_task(whole(InferenceServiceStub(channel).Generate(greedy())))
            await eventually(lambda: engine.held)
            exchange = Exchange(RouterServiceStub(channel))
            await exchange.ask("sum")

            draining = asyncio.create_task(life.aclose())
            await eventually(lambda: refused(exchange))

            engine.finish()
            await asyncio.gather(running, draining)


async def refused(exchange: Exchange) -> bool:
    [answer] = await exchange.ask("sum")
    return answer.HasField("failure") and error(answer).reason == "DRAINING"


async def test_the_caller_may_close_its_side_and_gets_all_answers(mesh: RunningRouter) -> None:
    exchange = Exchange(mesh.routing)
    await exchange.call.write(RouteSessionRequest(asks=[ask(at) for at in range(1, 501)]))
    await exchange.call.done_writing()

    answers = [answer async for message in exchange.call for answer in message.answers]

    assert sorted(answer.route_id for answer in answers) == list(range(1, 501))


async def test_each_ask_has_a_span_and_counts_as_a_decision() -> None:
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collecting() as collector, telemetry_to(collector) as (router, _):
        async with running_mesh(strategy=ByWord({"sum": "general"}), telemetry=router) as mesh:
            for prompt in ("sum", ""):
                await Exchange(mesh.routing).ask(prompt, traceparent=f"00-{trace_id}-{caller}-01")

    answered, failed = collector.tree(caller)
    span = "router expertmesh.v1.RouterService/RouteSession/ask SERVER"
    assert (answered, failed) == ((span, ["router route.classify INTERNAL"]), span)
    assert [each.attributes.get("expertmesh.reason", "") for each in collector.named(METHOD)] == ["confident", ""]
    assert [each.attributes["rpc.response.status_code"] for each in collector.named(METHOD)] == [
        "OK",
        "INVALID_ARGUMENT",
    ]
    [decisions] = collector.metrics["expertmesh.route.decisions"]
    assert decisions.as_int == 1
