"""How the router finds its experts, and keeps them apart."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from mesh_wire.serving import serving
from router_svc.replicas import fleet as fleets
from support.asking import greedy
from support.calls import failure, whole
from support.engines import ByHand
from support.mesh import ANYWHERE, RunningRouter, running_expert, running_mesh, running_router
from support.waiting import eventually


class Names:
    """A DNS of one name, whose addresses a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] | OSError = []
        self.asked = 0
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def getaddrinfo(host: str, port: int, **more: Any) -> Any:
            if host != "experts.test":
                return await real(host, port, **more)
            self.asked += 1
            if isinstance(self.addresses, OSError):
                raise self.addresses
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(fleets, "LOOK_UP_EVERY_S", 0.01)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def serve(mesh: RunningRouter, *wanted: str) -> None:
    async def they_do() -> bool:
        return await mesh.serving() == sorted(wanted)

    await eventually(they_do)


async def test_replicas_behind_a_name_join_and_leave(names: Names) -> None:
    async with (
        running_expert(name="one", listen="127.0.0.1:0") as one,
        running_expert(name="two", listen=f"127.0.0.2:{one.port}"),
    ):
        names.addresses = ["127.0.0.1"]
        async with running_router(f"dns:///experts.test:{one.port}") as mesh:
            assert await mesh.serving() == ["one"]

            names.addresses = ["127.0.0.1", "127.0.0.2"]
            await serve(mesh, "one", "two")

            names.addresses = ["127.0.0.2"]
            await serve(mesh, "two")
            answer = await whole(mesh.inference.Generate(greedy()))
            assert answer.route is not None
            assert answer.route.replica == "two"


async def test_a_name_that_does_not_resolve_for_a_while_loses_nobody(names: Names) -> None:
    async with running_expert(name="one") as one:
        names.addresses = ["127.0.0.1"]
        async with running_router(f"dns:///experts.test:{one.port}") as mesh:
            names.addresses = socket.gaierror(-2, "no such name")

            async def told() -> bool:
                return bool((await mesh.fleet()).unreachable)

            await eventually(told)
            assert "no such name" in (await mesh.fleet()).unreachable[0].reason
            assert await mesh.serving() == ["one"]
            assert (await whole(mesh.inference.Generate(greedy()))).finished


@pytest.mark.parametrize("name", ["experts.test", "experts..test"])
async def test_a_name_nobody_knows_is_told_and_does_not_stop_the_router(names: Names, name: str) -> None:
    names.addresses = socket.gaierror(-2, "no such name")
    async with running_router(f"dns:///{name}:50061") as mesh:
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "NO_EXPERT"
        assert [one.endpoint for one in (await mesh.fleet()).unreachable] == [f"dns:///{name}:50061"]


async def test_a_replica_that_left_the_name_finishes_what_it_has(names: Names) -> None:
    engine = ByHand()
    async with running_expert(name="one", engine=engine) as one:
        names.addresses = ["127.0.0.1"]
        async with running_router(f"dns:///experts.test:{one.port}") as mesh:
            call = mesh.inference.Generate(greedy())
            await eventually(lambda: engine.held == 1)

            names.addresses = []
            await serve(mesh)
            assert (await failure(mesh.inference.Generate(greedy()))).reason == "NO_EXPERT"

            engine.say("still here")
            engine.finish()
            assert (await whole(call)).text == "still here"


async def test_an_address_behind_two_targets_is_one_replica(names: Names) -> None:
    async with running_expert(name="one") as one:
        names.addresses = ["127.0.0.1"]
        async with running_router(one.target, f"dns:///experts.test:{one.port}") as mesh:
            assert len((await mesh.fleet()).experts[0].replicas) == 1

            names.addresses = []
            seen = names.asked
            await eventually(lambda: names.asked > seen + 1)
            assert await mesh.serving() == ["one"]


async def test_the_real_look_up_finds_this_machine() -> None:
    async with (
        running_expert(name="one", listen="127.0.0.1:0") as one,
        running_router(f"dns:///localhost:{one.port}") as mesh,
    ):
        await serve(mesh, "one")


async def test_requests_spread_over_the_replicas_of_an_expert() -> None:
    engines = {"a": ByHand(), "b": ByHand()}
    async with running_mesh(engines) as mesh:
        calls = [mesh.inference.Generate(greedy()) for _ in range(8)]
        await eventually(lambda: sum(engine.held for engine in engines.values()) == 8)

        assert [engine.held for engine in engines.values()] == [4, 4]
        for engine in engines.values():
            engine.finish()
        for call in calls:
            assert (await whole(call)).finished


@asynccontextmanager
async def babbling() -> AsyncIterator[str]:
    """A server of the right names, whose every answer is garbage."""

    async def babble(request: bytes, context: object) -> bytes:
        return b"\xff\xff garbage"

    handlers = {"Describe": grpc.unary_unary_rpc_method_handler(babble)}

    def register(server: grpc.aio.Server) -> None:
        name = "expertmesh.v1.ExpertService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async with serving(register, ["expertmesh.v1.InferenceService"], address=ANYWHERE, grace_s=0) as server:
        yield f"127.0.0.1:{server.port}"


async def test_a_server_that_talks_nonsense_harms_no_other() -> None:
    async with (
        running_expert(name="one") as one,
        babbling() as nonsense,
        running_router(one.target, nonsense) as mesh,
    ):
        assert await mesh.serving() == ["one"]
        assert (await whole(mesh.inference.Generate(greedy()))).finished
        assert [each.endpoint for each in (await mesh.fleet()).unreachable] == [nonsense]


async def test_a_router_is_no_expert() -> None:
    async with running_mesh() as inner, running_router(inner.target) as mesh:
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "NO_EXPERT"
        assert "UNIMPLEMENTED" in (await mesh.fleet()).unreachable[0].reason
