"""Answers that go around the router: it decides and counts, and no token passes it."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import Finished, RouteChosen
from expertmesh_client import AsyncClient, BadInput, Busy, Client, MeshError, Unauthenticated, Unavailable
from mesh_wire.serving import open_channel
from mesh_wire.settings import KeySource, TicketSection
from mesh_wire.telemetry import exporting
from mesh_wire.tickets import TicketOffice
from router_svc.answers import RouterAnswers
from router_svc.desk import Desk
from router_svc.route_exchange import RouteExchange
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
async def test_an_answer_comes_from_its_expert_and_tells_its_route(tickets: TicketSection, with_tickets: bool) -> None:
    tickets = tickets.model_copy(update={"required": with_tickets})
    experts = {"a": ["general"], "b": ["math"]}
    async with running_mesh(experts, strategy=ByWord(WORDS), tickets=tickets) as mesh, direct(mesh) as client:
        answer = client.generate("the sum", sampling=SHORT)
        events = [event async for event in answer.events()]

    assert isinstance(events[0], RouteChosen)
    assert isinstance(events[-1], Finished)
    assert answer.route is not None
    assert (answer.route.expert, answer.route.replica, answer.route.attempt) == ("math", "b", 1)
    assert answer.text == expected_answer("math", greedy("the sum"))[0]


@pytest.fixture
def tickets(tmp_path: Path) -> TicketSection:
    (tmp_path / "key").write_bytes(b"s" * 32)
    return TicketSection(required=True, keys={"k1": KeySource(file=tmp_path / "key")})


class Late:
    """Makes the office's next tickets late ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tickets = 0
        given = TicketOffice.for_request

        def give(office: TicketOffice, *about: Any) -> str:
            if not self.tickets:
                return given(office, *about)
            self.tickets -= 1
            with monkeypatch.context() as patched:
                patched.setattr(office, "_lifetime_s", -60.0)
                return given(office, *about)

        monkeypatch.setattr(TicketOffice, "for_request", give)


async def test_a_ticket_that_has_expired_on_its_way_is_replaced_by_another(
    tickets: TicketSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(monkeypatch)
    async with running_mesh({"only": ["general"]}, tickets=tickets) as mesh, direct(mesh) as client:
        late.tickets = 1
        answer = client.generate("x", sampling=SHORT)
        assert await answer.read() == expected_answer("general", greedy("x"))[0]
        assert answer.route is not None
        assert (answer.route.replica, answer.route.attempt) == ("only", 1)


async def test_tickets_that_always_expire_are_given_up(tickets: TicketSection, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    async with running_mesh({"only": ["general"]}, tickets=tickets) as mesh, direct(mesh) as client:
        late.tickets = 10
        with pytest.raises(Unauthenticated, match="TICKET_EXPIRED"):
            await client.generate("x", sampling=SHORT).read()
        assert late.tickets == 8


async def test_the_end_of_an_answer_is_reported_though_the_client_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    monkeypatch.setattr(RouteExchange, "_note", lambda _, report: told.append(report.usage.completion_tokens))
    async with running_mesh({"only": ["general"]}) as mesh:
        for _ in range(20):
            async with AsyncClient(mesh.target, direct=True) as client:
                await client.generate("x", sampling=SHORT).read()
    assert told == [12] * 20


async def test_the_way_to_a_replica_that_no_route_names_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, grpc.aio.Channel] = {}

    def noted(target: str, *more: Any, **options: Any) -> grpc.aio.Channel:
        opened[target] = open_channel(target, *more, **options)
        return opened[target]

    monkeypatch.setattr("expertmesh_client.aio.open_channel", noted)
    async with running_mesh({"a": ByHand("math"), "b": ByHand("general")}) as mesh, direct(mesh) as client:
        a, b = mesh.experts["a"], mesh.experts["b"]
        staying = asyncio.create_task(client.generate("x", expert="math").read())
        await eventually(lambda: a.engine.held)
        monkeypatch.setattr("expertmesh_client.ways.IDLE_S", 0.0)
        for _ in range(3):
            other = asyncio.create_task(client.generate("x", expert="general").read())
            await eventually(lambda: b.engine.held)
            b.engine.finish()
            await other
        assert open_still(opened[a.target]), "something is under way there"

        a.engine.finish()
        await staying
        other = asyncio.create_task(client.generate("x", expert="general").read())
        await eventually(lambda: not open_still(opened[a.target]))
        await eventually(lambda: b.engine.held)
        b.engine.finish()
        await other


def open_still(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is not grpc.ChannelConnectivity.SHUTDOWN


async def test_an_old_exchange_of_routes_keeps_its_places_until_they_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchanges: list[RouteExchange] = []

    class Noted(RouteExchange):
        def __init__(self, desk: Desk) -> None:
            super().__init__(desk)
            exchanges.append(self)

        async def answers(self, requests: Any) -> AsyncIterator[Any]:
            async for answer in super().answers(requests):
                yield answer
            exchanges.remove(self)

    monkeypatch.setattr("router_svc.service.RouteExchange", Noted)
    async with running_mesh({"a": ByHand()}) as mesh, direct(mesh) as client:
        engine = mesh.experts["a"].engine
        reading = []
        for number in (1, 2, 3):
            reading.append(asyncio.create_task(client.generate("x", request_id=str(number)).read()))
            await eventually(lambda number=number: engine.held == number)
            client._places.now.ways.routes.renew()
        assert len(exchanges) == 3
        assert await mesh.outstanding() == 3

        engine.finish("2")
        await eventually(lambda: len(exchanges) == 2)
        assert await mesh.outstanding() == 2
        engine.finish()
        await asyncio.gather(*reading)
        await eventually(lambda: not exchanges)


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


@pytest.mark.parametrize(("command", "typed"), [(("ask", "x"), ""), (("chat",), "x\n")])
async def test_the_command_line_goes_around_too(tickets: TicketSection, command: tuple[str, ...], typed: str) -> None:
    asking = ("-m", "expertmesh_client", *command, "--direct", "--temperature", "0", "--max-tokens", "12")
    async with running_mesh(tickets=tickets) as mesh:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *asking, "--target", mesh.target, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        said, told = await process.communicate(typed.encode())

    assert process.returncode == 0, told.decode()
    assert said.decode() == expected_answer("general", greedy("x"))[0] + "\n"
    assert "[general on a" in told.decode()


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

    engine = [f"expert engine.{stage} INTERNAL" for stage in ("submit", "queue", "prefill", "decode", "deliver")]
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
