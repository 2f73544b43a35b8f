"""What gRPC is told of connections: how they are kept, and how they end without harm."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import cast
from unittest.mock import patch

import grpc

from expertmesh.v1.generation_pb2 import GenerateResponse
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire import wire_options
from mesh_wire.wire_options import channel_options, server_options
from support.asking import greedy
from support.calls import Talk, Whole, whole
from support.engines import ByHand
from support.mesh import running_expert, running_router
from support.waiting import eventually

READY = grpc.ChannelConnectivity.READY


@asynccontextmanager
async def pinging(server: grpc.aio.Server) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel that pings a server every second, gRPC's shortest interval, and says nothing else."""
    options = dict(channel_options()) | {"grpc.keepalive_time_ms": 1000}
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=list(options.items())) as channel:
        await channel.channel_ready()
        yield channel
    await server.stop(None)


async def test_pings_without_calls_are_never_too_many() -> None:
    async with (
        pinging(grpc.aio.server(options=server_options())) as ours,
        pinging(grpc.aio.server()) as of_others,  # which takes two, and ends the connection at the third
    ):
        left = asyncio.create_task(ours.wait_for_state_change(READY))

        await of_others.wait_for_state_change(READY)

        assert not left.done()
        left.cancel()


async def leave(channel: grpc.aio.Channel) -> None:
    """Wait until a channel has been told that its connection takes no more calls."""
    if channel.get_state(try_to_connect=True) is READY:
        await channel.wait_for_state_change(READY)


async def test_the_age_of_a_connection_to_a_shared_port_harms_no_call() -> None:
    """A caller moves to another connection and so perhaps to another worker; what is under way stays."""
    engine = ByHand(max_running=100)
    with patch.object(wire_options, "SHARED_CONNECTION_AGE_MS", 50):
        async with running_expert(engine=engine) as expert, running_router(expert.target, workers=2) as mesh:
            call, talk = mesh.inference.Generate(greedy()), Talk(mesh.inference)
            await talk.start(1, greedy())
            await eventually(lambda: engine.held == 2)
            asked: list[asyncio.Task[Whole]] = []
            for moves in range(1, 6):
                await leave(mesh.channel)
                asked += [asyncio.create_task(whole(mesh.inference.Generate(greedy()))) for _ in range(3)]
                await talk.start(1 + moves, greedy())  # the session is where it was
                await eventually(lambda: engine.held == 2 + 4 * moves)  # noqa: B023  # awaited here

            engine.say("none ")
            engine.say("lost")
            engine.finish()
            assert [one.text for one in await asyncio.gather(*asked, whole(call))] == ["none lost"] * 16
            await talk.until_over(*range(1, 7))
            assert [answer.text for answer in talk.answers.values()] == ["none lost"] * 6


async def test_calls_that_meet_the_age_of_their_connection_are_answered() -> None:
    with patch.object(wire_options, "SHARED_CONNECTION_AGE_MS", 5):
        async with running_expert() as expert, running_router(expert.target, workers=2) as mesh:
            moved = 0

            async def keep_asking() -> None:
                while moved < 20:
                    assert (await whole(mesh.inference.Generate(greedy(max_new_tokens=2)))).finished

            asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
            while moved < 20 and not any(task.done() for task in asking):
                state = mesh.channel.get_state()
                await mesh.channel.wait_for_state_change(state)
                moved += state is READY
            await asyncio.gather(*asking)


async def test_routers_of_several_workers_share_a_port() -> None:
    async with (
        running_expert() as expert,
        running_router(expert.target, workers=2) as one,
        running_router(expert.target, workers=2, listen=one.target) as other,
    ):
        assert other.port == one.port


def ended(call: Iterable[GenerateResponse]) -> grpc.StatusCode:
    """Read a call of a blocking stub to its end; returns its status."""
    try:
        return grpc.StatusCode.OK if list(call) else grpc.StatusCode.UNKNOWN
    except grpc.RpcError as error:
        return cast("grpc.Call", error).code()


async def test_a_burst_that_comes_while_the_server_is_busy_is_answered_or_refused_with_a_reason() -> None:
    """gRPC itself would drop what exceeds a thousand waiting calls, as CANCELLED and without a word."""
    calls = 2_500
    async with running_expert() as expert:
        with grpc.insecure_channel(expert.target) as channel:
            ask = InferenceServiceStub(channel).Generate
            asked = [ask(greedy(max_new_tokens=1)) for _ in range(calls)]  # the server's event loop stands still
            codes = await asyncio.to_thread(lambda: Counter(ended(call) for call in asked))

    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.total() == calls
