"""The clients against a real server that speaks the contract."""

import asyncio
import threading
from itertools import groupby
from pathlib import Path

import grpc
import pytest

from expertmesh.v1.generation_pb2 import Delta, Finished, RouteChosen
from expertmesh_client import (
    AsyncClient,
    BadInput,
    Busy,
    Client,
    ClientTls,
    DeadlinePassed,
    Foreign,
    MeshError,
    NotFound,
    Unavailable,
)
from mesh_wire.telemetry import exporting
from mesh_wire.tls import ServerTls
from support.otlp import collecting
from support.scripted import FINISHED, FLEET, ROUTE, scripted
from support.waiting import eventually

PEM = Path(__file__).parents[1] / "support" / "tls"


@pytest.fixture(params=["session", "generate"])
def over(request):
    return request.param


async def test_an_answer_comes_as_text_and_tells_its_route_and_its_end(over):
    async with scripted() as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("7 × 8?", expert="math", sampling={"max_new_tokens": 3}, request_id="r-1")
        pieces = [piece async for piece in answer]

    assert "".join(pieces) == "Fifty six"
    assert (answer.text, answer.route, answer.finished) == ("Fifty six", ROUTE, FINISHED)
    assert node.asked[0].sampling.max_new_tokens == 3


async def test_events_keep_the_order_of_the_contract(over):
    async with scripted() as node, AsyncClient(node.target, over=over) as client:
        events = [event async for event in client.chat([("user", "7 × 8?")]).events()]

    assert [kind for kind, _ in groupby(map(type, events))] == [RouteChosen, Delta, Finished]
    assert node.asked[0].chat.messages[0].parts[0].text == "7 × 8?"


async def test_an_expert_asked_directly_tells_no_route(over):
    async with scripted(as_expert=True) as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("7 × 8?")

        assert await answer.read() == "Fifty six"
    assert answer.route is None


async def test_the_decision_and_the_fleet_are_asked_for_alone():
    async with scripted() as node, AsyncClient(node.target) as client:
        decision = await client.route("7 × 8?")
        fleet = await client.experts()

    assert (decision.route, decision.endpoint) == (ROUTE, "127.0.0.1:50061")
    assert fleet == FLEET


@pytest.mark.parametrize(
    "refusal",
    [
        NotFound("no such expert", reason="EXPERT_UNKNOWN", field="expert", known="math"),
        Busy("full", reason="ROUTER_BUSY", retry_after_s=0.5),
        BadInput("nothing to answer", reason="PROMPT_EMPTY", field="prompt"),
    ],
)
async def test_a_failure_arrives_as_the_class_that_it_left_as(over, refusal):
    async with scripted(refusals=[refusal, refusal]) as node, AsyncClient(node.target, over=over) as client:
        with pytest.raises(type(refusal)) as refused:
            await client.generate("x").read()
        with pytest.raises(type(refusal)):
            await client.route("x")

    assert str(refused.value) == str(refusal)
    assert refused.value.facts == refusal.facts
    assert refused.value.retry_after_s == refusal.retry_after_s


async def test_a_failure_in_mid_answer_leaves_what_had_come(over):
    breaks = Unavailable("the engine died", reason="ENGINE_DEAD", tokens_sent="3")
    async with scripted(breaks=breaks) as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("x")
        with pytest.raises(Unavailable) as died:
            await answer.read()

    assert died.value.facts == {"tokens_sent": "3"}
    assert (answer.text, answer.finished) == ("Fifty six", None)
    assert len(node.asked) == 1, "an answer that has begun is never asked for again"


async def test_nobody_listening_is_a_mesh_error_too(over):
    async with AsyncClient("127.0.0.1:1", over=over) as client:
        with pytest.raises(Foreign) as refused:
            await client.generate("x").read()

    assert refused.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_finds_the_server_unavailable_is_tried_three_times_in_all(over):
    gone = [Unavailable("not now", reason="NO_EXPERT") for _ in range(5)]
    async with scripted(refusals=gone) as node, AsyncClient(node.target, over=over) as client:
        with pytest.raises(Unavailable):
            await client.generate("x").read()
        assert len(node.asked) == 3

        assert await client.generate("x").read() == "Fifty six"
    assert len(node.asked) == 6, "two more refusals, then the answer"


async def test_other_failures_are_not_tried_again(over):
    async with (
        scripted(refusals=[Busy("full", reason="ROUTER_BUSY")]) as node,
        AsyncClient(node.target, over=over) as client,
    ):
        with pytest.raises(Busy):
            await client.generate("x").read()

    assert len(node.asked) == 1


async def test_the_time_given_travels_and_is_kept(over):
    async with scripted(endless=True) as node, AsyncClient(node.target, over=over, timeout_s=60) as client:
        answer = client.generate("x", timeout_s=0.5)
        with pytest.raises(DeadlinePassed):
            await answer.read()

        assert node.time_left is not None
        assert node.time_left <= 0.5
        await eventually(lambda: node.running == 0)
        await client.route("x")
        assert node.time_left > 30, "the client's own limit is for calls without one"


async def test_leaving_the_loop_ends_the_call(over):
    async with scripted(endless=True) as node, AsyncClient(node.target, over=over) as client:
        async for piece in client.generate("x"):
            assert piece.startswith("Fifty")
            break

        await eventually(lambda: node.running == 0)


async def test_leaving_the_block_ends_the_call(over):
    async with scripted(endless=True) as node, AsyncClient(node.target, over=over) as client:
        async with client.generate("x") as answer:
            events = answer.events()
            await anext(events)
            assert node.running == 1

        await eventually(lambda: node.running == 0)
        with pytest.raises(Foreign, match="closed"):
            await anext(answer.events())
        await events.aclose()


async def test_an_answer_closed_from_elsewhere_ends_with_an_error_not_a_cancelled_task(over):
    async with scripted(endless=True) as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("x")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: answer.text == "Fifty six")

        await answer.close()

        with pytest.raises(Foreign) as closed:
            await reading
        assert closed.value.code is grpc.StatusCode.CANCELLED
        await eventually(lambda: node.running == 0)


async def test_cancelling_the_task_ends_the_call(over):
    async with scripted(endless=True) as node, AsyncClient(node.target, over=over) as client:
        reading = asyncio.create_task(client.generate("x").read())
        await eventually(lambda: node.running == 1)

        reading.cancel()

        with pytest.raises(asyncio.CancelledError):
            await reading
        await eventually(lambda: node.running == 0)


async def test_an_answer_is_iterated_once(over):
    async with scripted() as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("x")
        await answer.read()

        with pytest.raises(RuntimeError, match="once"):
            await answer.read()


async def test_the_blocking_client_says_the_same(over):
    def talk(target):
        with Client(target, over=over) as client:
            with client.generate("7 × 8?") as answer:
                pieces = list(answer)
            return pieces, answer, client.route("x").route, client.experts(), client.chat([("user", "x")]).read()

    async with scripted() as node:
        pieces, answer, route, fleet, said = await asyncio.to_thread(talk, node.target)

    assert "".join(pieces) == "Fifty six"
    assert (answer.text, answer.route, answer.finished) == ("Fifty six", ROUTE, FINISHED)
    assert (route, fleet, said) == (ROUTE, FLEET, "Fifty six")


async def test_the_blocking_client_ends_a_call_when_its_loop_is_left(over):
    left, go_on = threading.Event(), threading.Event()

    def talk(target):
        with Client(target, over=over) as client:
            for _ in client.generate("x"):
                break
            left.set()
            go_on.wait()

    async with scripted(endless=True) as node:
        talking = asyncio.create_task(asyncio.to_thread(talk, node.target))
        await eventually(left.is_set)
        await eventually(lambda: node.running == 0)
        go_on.set()
        await talking


async def test_the_blocking_client_raises_the_same_errors(over):
    def talk(target):
        with Client(target, over=over) as client:
            with pytest.raises(NotFound) as refused:
                client.generate("x").read()
            with pytest.raises(BadInput):
                client.generate()
            with pytest.raises(DeadlinePassed):
                client.generate("x", timeout_s=0.3).read()
        with pytest.raises(RuntimeError, match="closed"):
            client.experts()
        client.close()
        return refused.value

    refusal = NotFound("no such expert", reason="EXPERT_UNKNOWN", field="expert")
    async with scripted(refusals=[refusal], endless=True) as node:
        assert str(await asyncio.to_thread(talk, node.target)) == str(refusal)


async def test_closing_the_blocking_client_ends_the_answers_that_others_still_read():
    async with scripted(endless=True) as node:
        client = await asyncio.to_thread(Client, node.target)
        answer = client.generate("x")
        reading = asyncio.create_task(asyncio.to_thread(answer.read))
        await eventually(lambda: answer.text == "Fifty six")

        await asyncio.to_thread(client.close)

        with pytest.raises(MeshError):
            await reading
        await eventually(lambda: node.running == 0)


async def test_calls_go_over_tls_and_a_stranger_is_refused(over):
    server = ServerTls(certificate=PEM / "server.pem", key=PEM / "server.key", client_authority=PEM / "authority.pem")
    known = ClientTls(
        authority=PEM / "authority.pem",
        certificate=PEM / "client.pem",
        key=PEM / "client.key",
        server_name="expert.test",
    )
    async with scripted(tls=server) as node:
        async with AsyncClient(node.target, over=over, tls=known) as client:
            assert await client.generate("x").read() == "Fifty six"
        for tls in (ClientTls(), ClientTls(authority=PEM / "authority.pem", server_name="expert.test"), None):
            async with AsyncClient(node.target, over=over, tls=tls) as stranger:
                with pytest.raises(MeshError):
                    await stranger.generate("x").read()


async def test_a_call_leaves_one_span_that_the_server_can_join(over):
    with collecting() as collector:
        with exporting("expertmesh-client", "test", env=collector.env) as telemetry:
            async with scripted() as node, AsyncClient(node.target, over=over, telemetry=telemetry) as client:
                answer = client.generate("a secret", expert="math")
                await answer.read()
            assert answer.trace_id
        [span] = collector.spans

    assert (span.name, span.kind) == ("expertmesh.v1.InferenceService/Generate", "CLIENT")
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "expertmesh.v1.InferenceService/Generate",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": node.port,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.stream": True,
        "gen_ai.request.model": "math",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "expertmesh.expert": "math",
        "expertmesh.replica": "expert-a",
        "expertmesh.reason": "confident",
    }
    assert span.events == ["gen_ai.first_token"]
    assert b"a secret" not in collector.raw
    assert node.headers[0]["traceparent"].split("-")[1:3] == [answer.trace_id, span.span_id]


async def test_a_call_that_fails_or_is_left_ends_its_span(over):
    refusal = NotFound("no such expert", reason="EXPERT_UNKNOWN")
    with collecting() as collector:
        with exporting("expertmesh-client", "test", env=collector.env) as telemetry:
            node = scripted(refusals=[refusal], endless=True)
            async with node as node, AsyncClient(node.target, over=over, telemetry=telemetry) as client:
                with pytest.raises(NotFound):
                    await client.generate("x").read()
                async for _ in client.generate("x"):
                    break
                await client.experts()
        refused, left, listed = sorted(collector.spans, key=lambda span: span.start_ns)

    assert refused.attributes["error.type"] == "EXPERT_UNKNOWN"
    assert refused.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert left.attributes["rpc.response.status_code"] == "CANCELLED"
    assert listed.name == "expertmesh.v1.RouterService/ListExperts"


async def test_an_untraced_call_sends_no_trace_context(over):
    async with scripted() as node, AsyncClient(node.target, over=over) as client:
        answer = client.generate("x")
        await answer.read()

    assert answer.trace_id == ""
    assert "traceparent" not in node.headers[0]
