"""Answers that go around the router: it decides and counts, and no token passes it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import Finished, RouteChosen
from expertmesh_client import AsyncClient, BadInput, Busy, Client, MeshError, Unavailable
from mesh_wire.settings import KeySource, TicketSection
from mesh_wire.telemetry import exporting
from router_svc.answers import RouterAnswers
from support.asking import greedy
from support.engines import ByHand, Failing
from support.mesh import RunningRouter, running_mesh
from support.otlp import collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

WORDS = {"sum": "math", "dinner": "general"}
SHORT = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(autouse=True)
def no_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test asks here, the router must not answer it itself."""

    async def answer(*_: object) -> None:
        raise AssertionError("the router was asked for tokens")

    monkeypatch.setattr(RouterAnswers, "answer", answer)


@asynccontextmanager
async def direct(mesh: RunningRouter, **more: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(mesh.target, direct=True, **more) as client:
        yield client
    await eventually(lambda: nothing_counts(mesh))


async def nothing_counts(mesh: RunningRouter) -> bool:
    return await mesh.outstanding() == 0


@pytest.mark.parametrize("with_tickets", [False, True])
async def test_an_answer_comes_from_its_expert_and_tells_its_route(tmp_path: Path, with_tickets: bool) -> None:
    (tmp_path / "key").write_bytes(b"s" * 32)
    tickets = TicketSection(required=with_tickets, keys={"k1": KeySource(file=tmp_path / "key")})
    experts = {"a": ["general"], "b": ["math"]}
    async with running_mesh(experts, strategy=ByWord(WORDS), tickets=tickets) as mesh, direct(mesh) as client:
        answer = client.generate("the sum", sampling=SHORT)
        events = [event async for event in answer.events()]

    assert isinstance(events[0], RouteChosen)
    assert isinstance(events[-1], Finished)
    assert answer.route is not None
    assert (answer.route.expert, answer.route.replica, answer.route.attempt) == ("math", "b", 1)
    assert answer.text == expected_answer("math", greedy("the sum"))[0]


async def test_the_router_counts_what_goes_around_it_until_it_ends() -> None:
    async with running_mesh({"a": ByHand()}) as mesh, direct(mesh) as client:
        engine = mesh.experts["a"].engine
        reading = [asyncio.create_task(client.generate("x").read()) for _ in range(3)]
        await eventually(lambda: engine.held == 3)
        assert await mesh.outstanding() == 3

        reading[0].cancel()
        await eventually(lambda: counts(mesh, 2))
        assert engine.held == 2
        engine.finish()
        await asyncio.gather(*reading[1:])
        await eventually(lambda: counts(mesh, 0))


async def counts(mesh: RunningRouter, requests: int) -> bool:
    return await mesh.outstanding() == requests


async def test_many_answers_spread_over_the_replicas_each_over_one_session() -> None:
    async with running_mesh({"a": ["general"], "b": ["general"]}) as mesh, direct(mesh) as client:
        answers = [client.generate(f"x {at}", sampling=SHORT) for at in range(60)]
        await asyncio.gather(*(answer.read() for answer in answers))

    replicas = [answer.route.replica for answer in answers if answer.route]
    assert 15 <= replicas.count("a") <= 45


@pytest.mark.parametrize(
    "refusal",
    [
        Unavailable("it stops", reason="DRAINING", tokens_sent="0"),
        Busy("full", reason="EXPERT_BUSY", retry_after_s=0.5, tokens_sent="0"),
    ],
)
async def test_a_replica_that_refuses_is_passed_over_once(refusal: MeshError) -> None:
    async with running_mesh({"a": Failing(refusal), "b": ByHand()}) as mesh, direct(mesh) as client:
        await busy_at(mesh, "b")
        answer = client.generate("x")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: mesh.experts["b"].engine.held == 2)
        mesh.experts["b"].engine.finish()
        await reading

    assert answer.route is not None
    assert (answer.route.replica, answer.route.attempt) == ("b", 2)


async def test_a_replica_that_dies_before_its_first_token_is_passed_over() -> None:
    async with running_mesh({"a": ByHand(), "b": ByHand()}) as mesh, direct(mesh) as client:
        await busy_at(mesh, "b")
        answer = client.generate("x")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: mesh.experts["a"].engine.held)

        mesh.experts["a"].engine.die()

        await eventually(lambda: mesh.experts["b"].engine.held == 2)
        mesh.experts["b"].engine.finish()
        await reading

    assert answer.route is not None
    assert (answer.route.replica, answer.route.attempt) == ("b", 2)


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    failing = Failing(Unavailable("died", reason="ENGINE_DEAD", tokens_sent="1"), after_tokens=1)
    async with running_mesh({"a": failing, "b": ByHand()}) as mesh, direct(mesh) as client:
        await busy_at(mesh, "b")
        answer = client.generate("x")
        with pytest.raises(Unavailable, match="ENGINE_DEAD"):
            await answer.read()

    assert answer.text == "word "


async def busy_at(mesh: RunningRouter, replica: str) -> None:
    """Keep a replica busy with a request from elsewhere, so that the router prefers the others."""
    call = mesh.experts[replica].inference.Generate(greedy())
    call.add_done_callback(lambda _: None)  # it ends with the mesh

    async def known() -> bool:
        replicas = [each for expert in (await mesh.fleet()).experts for each in expert.replicas]
        return any(each.name == replica and each.load.running == 1 for each in replicas)

    await eventually(known)


async def test_a_busy_expert_without_other_replicas_is_busy() -> None:
    busy = Failing(Busy("full", reason="EXPERT_BUSY", retry_after_s=0.5, tokens_sent="0"), "math")
    async with running_mesh({"a": busy, "b": ["general"]}, strategy=ByWord(WORDS)) as mesh, direct(mesh) as client:
        with pytest.raises(Busy, match="EXPERT_BUSY"):
            await client.generate("sum", sampling=SHORT).read()


async def test_a_refusal_of_the_router_is_the_caller_s() -> None:
    async with running_mesh() as mesh, direct(mesh) as client:
        with pytest.raises(BadInput, match="PROMPT_EMPTY"):
            await client.generate("").read()


async def test_a_caller_that_vanishes_frees_engine_and_counts() -> None:
    async with running_mesh({"a": ByHand()}) as mesh:
        client = AsyncClient(mesh.target, direct=True)
        reading = asyncio.create_task(client.generate("x").read())
        await eventually(lambda: mesh.experts["a"].engine.held)

        await client.close()

        with pytest.raises(MeshError, match="closed"):
            await reading
        await eventually(lambda: nothing_counts(mesh))
        await eventually(lambda: not mesh.experts["a"].engine.held)


async def test_the_blocking_client_goes_around_too() -> None:
    def talk(target: str) -> str:
        with Client(target, direct=True) as client:
            return client.generate("x", sampling=SHORT).read()

    async with running_mesh() as mesh:
        assert await asyncio.to_thread(talk, mesh.target) == expected_answer("general", greedy("x"))[0]


async def test_the_trace_shows_the_route_beside_the_call_and_the_metrics_count_it() -> None:
    with collecting() as collector:
        strategy = ByWord({"sum": "general"})
        with (
            telemetry_to(collector) as (router, expert),
            exporting("expertmesh-client", "c", env=collector.env) as ours,
        ):
            async with (
                running_mesh(strategy=strategy, telemetry=router, expert_telemetry=expert) as mesh,
                direct(mesh, telemetry=ours) as client,
            ):
                await client.generate("sum", sampling=SHORT).read()

    engine = [f"expert engine.{stage} INTERNAL" for stage in ("queue", "prefill", "decode")]
    ask, start = "RouterService/RouteSession/ask", "InferenceService/Session/start"
    decided = (f"router expertmesh.v1.{ask} SERVER", ["router route.classify INTERNAL"])
    answered = (f"expert expertmesh.v1.{start} SERVER", engine)
    assert collector.tree("") == [
        (
            "client expertmesh.v1.InferenceService/Generate CLIENT",
            [("client route CLIENT", [decided]), ("client expert call CLIENT", [answered])],
        )
    ]
    assert not any(span.failed for span in collector.spans)
    [decisions] = collector.metrics["expertmesh.route.decisions"]
    [requests] = collector.metrics["expertmesh.direct.requests"]
    [tokens] = collector.metrics["expertmesh.direct.tokens"]
    assert (decisions.as_int, requests.as_int, tokens.as_int) == (1, 1, 12)
