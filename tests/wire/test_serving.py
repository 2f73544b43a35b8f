"""A server's life: health, reflection, channelz, the drain, TLS."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from expertmesh.v1.expert_pb2 import DescribeRequest, WatchLoadRequest
from mesh_wire.serving import NOT_SERVING, SERVING, PortTaken, open_channel
from mesh_wire.tls import ClientTls, ServerTls
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.engines import ByHand
from support.mesh import RunningExpert, RunningRouter, running_expert, running_mesh, running_router
from support.waiting import eventually

PEM = Path(__file__).parents[1] / "support" / "tls"
EXPERT_SERVICES = ["expertmesh.v1.ExpertService", "expertmesh.v1.InferenceService"]
ROUTER_SERVICES = ["expertmesh.v1.InferenceService", "expertmesh.v1.RouterService"]


# Health


@pytest.mark.parametrize("service", ["", *EXPERT_SERVICES, "grpc.health.v1.Health"])
async def test_every_service_of_an_expert_is_healthy(service: str) -> None:
    async with running_expert() as expert:
        assert await expert.health(service) == SERVING


@pytest.mark.parametrize("service", ["", *ROUTER_SERVICES])
async def test_every_service_of_a_router_is_healthy(service: str) -> None:
    async with running_mesh() as mesh:
        assert await mesh.health(service) == SERVING


async def test_a_withdrawn_server_is_not_healthy_and_goes_on_with_open_calls() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)

        await expert.server.withdraw()

        assert await expert.health("expertmesh.v1.InferenceService") == NOT_SERVING
        engine.finish()
        assert (await whole(call)).finished


# Reflection and channelz


async def listed(node: RunningExpert | RunningRouter) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(node.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()
    return [service.name for service in answer.list_services_response.service]


async def test_reflection_lists_the_services() -> None:
    async with running_mesh() as mesh:
        assert {*EXPERT_SERVICES, "grpc.health.v1.Health"} < set(await listed(mesh.experts["a"]))
        assert {*ROUTER_SERVICES, "grpc.health.v1.Health"} < set(await listed(mesh))


async def test_reflection_can_be_left_out() -> None:
    async with running_expert(reflection=False) as expert:
        stub = reflection_pb2_grpc.ServerReflectionStub(expert.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert (await failure(call)).code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("asked", [False, True])
async def test_channelz_is_there_only_when_asked_for(asked: bool) -> None:
    async with running_expert(channelz=asked) as expert:
        call = channelz_pb2_grpc.ChannelzStub(expert.channel).GetServers(channelz_pb2.GetServersRequest())
        if asked:
            assert (await call).server
        else:
            assert (await failure(call)).code is grpc.StatusCode.UNIMPLEMENTED


# The drain


class Life:
    """A server that the test ends at its own moment."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._ending: asyncio.Task[object] | None = None

    def end(self) -> None:
        self._ending = asyncio.create_task(self._stack.aclose())

    @property
    def ended(self) -> bool:
        return self._ending is not None and self._ending.done()

    async def over(self) -> None:
        assert self._ending is not None
        await self._ending


async def living(stack: AsyncExitStack, engine: ByHand, grace_s: float = 60) -> tuple[Life, RunningExpert]:
    expert = await stack.enter_async_context(running_expert(engine=engine, drain_grace_s=grace_s))
    await expert.channel.channel_ready()
    # The channel of `running_expert` closes before the drain; callers that see it need one of their own.
    expert.channel = open_channel(expert.target)
    expert.inference = type(expert.inference)(expert.channel)
    expert.expert = type(expert.expert)(expert.channel)
    return Life(stack), expert


async def until_draining(health: Callable[[], Awaitable[int]]) -> None:
    async def draining() -> bool:
        return await health() == NOT_SERVING

    await eventually(draining)


async def test_a_drain_says_so_first_lets_running_requests_finish_and_refuses_new_ones() -> None:
    engine = ByHand()
    async with AsyncExitStack() as stack:
        life, expert = await living(stack, engine)
        async with expert.channel:
            call, talk = expert.inference.Generate(greedy()), Talk(expert.inference)
            await talk.start(1, greedy())
            await eventually(lambda: engine.held == 2)

            life.end()
            await until_draining(expert.health)

            assert (await failure(expert.inference.Generate(greedy()))).reason == "DRAINING"
            await talk.start(2, greedy())
            await talk.until_over(2)
            refusal = talk.answers[2].error
            assert refusal is not None
            assert (refusal.reason, refusal.facts) == ("DRAINING", {"tokens_sent": "0"})
            assert (await failure(Talk(expert.inference).call)).reason == "DRAINING"
            assert (await expert.expert.Describe(DescribeRequest())).replica == "a"
            assert not life.ended

            engine.say("bye")
            engine.finish()
            assert (await whole(call)).text == "bye"
            await talk.until_over(1)
            assert talk.answers[1].text == "bye"
            await life.over()


async def test_streams_without_end_do_not_hold_up_a_drain() -> None:
    engine = ByHand()
    async with AsyncExitStack() as stack:
        life, expert = await living(stack, engine, grace_s=600)
        async with expert.channel:
            talk, load = Talk(expert.inference), expert.expert.WatchLoad(WatchLoadRequest())
            watch = health_pb2_grpc.HealthStub(expert.channel).Watch(health_pb2.HealthCheckRequest())
            await talk.start(1, greedy())
            await load.read()
            await watch.read()
            await eventually(lambda: engine.held == 1)
            engine.finish()
            await talk.until_over(1)

            life.end()

            await life.over()
            assert not await talk.read()
            assert await talk.call.code() is grpc.StatusCode.OK


async def test_what_still_runs_after_the_grace_is_cancelled() -> None:
    engine = ByHand()
    async with AsyncExitStack() as stack:
        life, expert = await living(stack, engine, grace_s=0.05)
        async with expert.channel:
            call, talk = expert.inference.Generate(greedy()), Talk(expert.inference)
            await talk.start(1, greedy())
            await eventually(lambda: engine.held == 2)

            life.end()
            await life.over()

            await eventually(lambda: engine.held == 0)
            assert (await failure(call)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_drain_waits_for_a_slow_reader_to_take_its_answer() -> None:
    engine = ByHand()
    async with AsyncExitStack() as stack:
        life, expert = await living(stack, engine)
        async with expert.channel:
            call, talk = expert.inference.Generate(greedy()), Talk(expert.inference)
            await talk.start(1, greedy())
            await eventually(lambda: engine.held == 2)
            engine.say("x")
            await call.read()
            await talk.until_text(1)
            for _ in range(64):
                engine.say("x" * 128 * 1024)
            engine.finish()
            await eventually(lambda: engine.held == 0)

            life.end()
            await until_draining(expert.health)

            got = 0
            while (event := await call.read()) is not grpc.aio.EOF:
                got += len(event.delta.text)
            await talk.until_over(1)
            assert got == 64 * 128 * 1024
            assert len(talk.answers[1].text) == got + 1
            await life.over()


async def test_a_router_drains_too() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert, AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(running_router(expert.target, drain_grace_s=60))
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            stub = type(mesh.inference)(channel)
            call = stub.Generate(greedy())
            await eventually(lambda: engine.held == 1)

            life = Life(stack)
            life.end()
            health = health_pb2_grpc.HealthStub(channel)

            async def draining() -> bool:
                return bool((await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING)

            await eventually(draining)
            assert (await failure(stub.Generate(greedy()))).reason == "DRAINING"
            engine.say()
            engine.finish()
            assert (await whole(call)).finished
            await life.over()


async def test_a_port_in_use_is_an_error() -> None:
    async with running_expert() as expert:
        with pytest.raises(PortTaken, match=str(expert.port)):
            async with running_expert(listen=expert.target):
                pass


# Load


async def test_load_comes_at_once_and_then_on_change() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        watch = expert.expert.WatchLoad(WatchLoadRequest())
        assert (await watch.read()).load.running == 0

        call = expert.inference.Generate(greedy())
        assert (await watch.read()).load.running == 1

        engine.finish()
        await whole(call)
        assert (await watch.read()).load.running == 0


async def test_a_watcher_of_the_load_sees_the_newest_only() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        watch = expert.expert.WatchLoad(WatchLoadRequest())
        await watch.read()
        calls = [expert.inference.Generate(greedy()) for _ in range(20)]
        await eventually(lambda: engine.held == 20)

        seen = []
        while 20 not in seen:
            seen.append((await watch.read()).load.running)
        assert len(seen) < 20
        assert seen == sorted(seen)
        for call in calls:
            call.cancel()


# TLS


def server_tls(*, mutual: bool = False) -> ServerTls:
    authority = PEM / "authority.pem" if mutual else None
    return ServerTls(certificate=PEM / "server.pem", key=PEM / "server.key", client_authority=authority)


def caller_tls(*, mutual: bool = False) -> ClientTls:
    own = {"certificate": PEM / "client.pem", "key": PEM / "client.key"} if mutual else {}
    return ClientTls(authority=PEM / "authority.pem", server_name="expert.test", **own)


async def test_an_answer_travels_over_tls() -> None:
    async with running_expert(tls=server_tls(), caller_tls=caller_tls()) as expert:
        assert (await whole(expert.inference.Generate(greedy()))).finished


async def test_a_caller_without_tls_gets_nowhere() -> None:
    async with running_expert(tls=server_tls()) as expert:
        assert (await failure(expert.inference.Generate(greedy()))).code is grpc.StatusCode.UNAVAILABLE


async def test_a_server_may_ask_for_the_caller_s_certificate() -> None:
    async with running_expert(tls=server_tls(mutual=True), caller_tls=caller_tls(mutual=True)) as expert:
        assert (await whole(expert.inference.Generate(greedy()))).finished


async def test_a_caller_without_the_certificate_asked_for_gets_nowhere() -> None:
    async with running_expert(tls=server_tls(mutual=True), caller_tls=caller_tls()) as expert:
        assert (await failure(expert.inference.Generate(greedy()))).code is grpc.StatusCode.UNAVAILABLE


async def test_a_router_reaches_its_experts_over_tls() -> None:
    async with (
        running_expert(tls=server_tls(mutual=True)) as expert,
        running_router(expert.target, expert_tls=caller_tls(mutual=True)) as mesh,
    ):
        assert (await whole(mesh.inference.Generate(greedy()))).finished
