"""A caller that leaves, at whatever moment, gives back all that its request held, everywhere."""

import asyncio
import random
from collections.abc import Iterator

import grpc
import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import inference
from mesh_wire.settings import Simulation
from mesh_wire.telemetry import Telemetry
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.engines import ByHand, FakeEngine, Firehose
from support.mesh import RunningRouter, running_expert, running_mesh, running_router
from support.otlp import collecting, telemetry_to
from support.waiting import eventually

MEGABYTE = 1024 * 1024
PIPE = 8 * MEGABYTE  # more than a connection holds

Pair = tuple[Telemetry, Telemetry]


@pytest.fixture(params=["plain", "traced"])
def telemetry(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Leaving must work with spans open as without."""
    if request.param == "plain":
        yield Telemetry.off(), Telemetry.off()
    else:
        with collecting() as collector, telemetry_to(collector) as pair:
            yield pair


async def all_is_free(mesh: RunningRouter, engine: FakeEngine) -> None:
    await eventually(lambda: engine.held == 0)

    async def settled() -> bool:
        return await mesh.outstanding() == 0

    await eventually(settled)


@pytest.mark.parametrize("tokens", [0, 1, 5])
async def test_leaving_while_waiting_or_decoding_frees_everything(telemetry: Pair, tokens: int) -> None:
    engine, (router, expert) = ByHand(), telemetry
    async with running_mesh({"a": engine}, telemetry=router, expert_telemetry=expert) as mesh:
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        for _ in range(tokens):
            engine.say()
            while not (await call.read()).delta.text:
                pass

        call.cancel()

        await all_is_free(mesh, engine)


async def test_leaving_while_the_reader_is_stalled_and_the_pipe_is_full_frees_everything(telemetry: Pair) -> None:
    engine, (router, expert) = Firehose(), telemetry
    async with running_mesh({"a": engine}, telemetry=router, expert_telemetry=expert) as mesh:
        call = mesh.inference.Generate(greedy())
        await call.read()
        await eventually(lambda: engine.sent_bytes > PIPE)

        call.cancel()

        await all_is_free(mesh, engine)


async def test_without_the_cancel_a_stalled_caller_s_place_would_stay_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would not notice if it proved nothing."""

    left = asyncio.Event()  # the router has heard of it

    async def no_cancel(*tasks: asyncio.Task[object]) -> None:
        left.set()

    engine = Firehose()
    async with running_mesh({"a": engine}, drain_grace_s=0) as mesh:
        call = mesh.inference.Generate(greedy())
        await call.read()
        await eventually(lambda: engine.sent_bytes > PIPE)

        with monkeypatch.context() as without:
            without.setattr(inference, "_ended", no_cancel)
            call.cancel()
            await eventually(left.is_set)
            said = engine.sent_bytes
            await eventually(lambda: engine.held == 0 or engine.sent_bytes > said + 2 * PIPE)

        assert engine.held == 1
        assert await mesh.outstanding() == 1


async def test_a_session_s_cancel_frees_one_request_and_its_end_all(telemetry: Pair) -> None:
    engine, (router, expert) = ByHand(), telemetry
    async with running_mesh({"a": engine}, telemetry=router, expert_telemetry=expert) as mesh:
        talk = Talk(mesh.inference)
        for number in (1, 2, 3):
            await talk.start(number, greedy())
        await eventually(lambda: engine.held == 3)

        await talk.cancel(2)
        await eventually(lambda: engine.held == 2)

        talk.call.cancel()
        await all_is_free(mesh, engine)


async def test_a_session_that_ends_with_its_pipe_full_frees_everything(telemetry: Pair) -> None:
    engine, (router, expert) = Firehose(), telemetry
    async with running_mesh({"a": engine}, telemetry=router, expert_telemetry=expert) as mesh:
        talk = Talk(mesh.inference)
        for number in (1, 2, 3):
            await talk.start(number, greedy())
        await talk.until_text(2)
        await eventually(lambda: engine.sent_bytes > PIPE)

        talk.call.cancel()

        await all_is_free(mesh, engine)


async def test_a_caller_whose_process_is_gone_frees_everything() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        channel = grpc.aio.insecure_channel(mesh.target, options=[("grpc.use_local_subchannel_pool", 1)])
        call = type(mesh.inference)(channel).Generate(greedy())
        await eventually(lambda: engine.held == 1)

        await channel.close()

        await all_is_free(mesh, engine)
        assert call.cancelled()


async def test_a_router_that_ends_frees_its_experts() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        async with running_router(expert.target, drain_grace_s=0) as mesh:
            mesh.inference.Generate(greedy())
            await eventually(lambda: engine.held == 1)

        await eventually(lambda: engine.held == 0)


async def test_a_request_may_be_asked_again_by_its_name_at_once() -> None:
    """A caller that hangs up and tries again must not meet itself."""
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        named = GenerateRequest(prompt="a", request_id="mine")
        for attempt in range(1, 11):
            call = mesh.inference.Generate(named)
            await eventually(lambda attempt=attempt: len(engine.requests) == attempt)
            call.cancel()
        last = mesh.inference.Generate(named)
        await eventually(lambda: len(engine.requests) == 11)
        engine.finish()

        assert (await whole(last)).finished


async def test_two_hundred_requests_left_at_random_leave_nothing_behind(telemetry: Pair) -> None:
    draw, (router, expert) = random.Random(7), telemetry
    places = 40
    simulation = Simulation(slots=64, step_base_s=0.001)  # room for all that the router lets in
    async with (
        running_expert(name="b", simulation=simulation, telemetry=expert, max_in_flight=places) as b,
        running_expert(name="a", simulation=simulation, telemetry=expert, max_in_flight=places) as a,
        running_router(a.target, b.target, telemetry=router, max_in_flight=60, admission={"max_wait_s": 1000}) as mesh,
    ):

        async def come_and_go() -> None:
            call = mesh.inference.Generate(greedy(max_new_tokens=draw.randint(1, 60)))
            for _ in range(draw.randint(0, 12)):
                try:
                    if await call.read() is grpc.aio.EOF:
                        return
                except grpc.RpcError:
                    return  # the router was full
            call.cancel()

        await asyncio.gather(*(come_and_go() for _ in range(200)))

        await eventually(lambda: a.engine.held == b.engine.held == 0)

        async def settled() -> bool:
            return await mesh.outstanding() == 0

        await eventually(settled)

        # Every place is free again: as many as there are get in, and not one more.
        for node, engines, room in ((a, [a], places), (b, [b], places), (mesh, [a, b], 60)):
            for each in (a, b):
                each.engine.stall()
            calls = [node.inference.Generate(greedy(max_new_tokens=2)) for _ in range(room)]
            await eventually(lambda engines=engines, room=room: sum(e.engine.held for e in engines) == room)
            assert (await failure(node.inference.Generate(greedy()))).reason in ("EXPERT_BUSY", "ROUTER_BUSY")
            for each in (a, b):
                each.engine.resume()
            for call in calls:
                assert (await whole(call)).finished
