"""Replicas that fail or drag are left alone and come back; the last of its kind never is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

import grpc
import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.errors import MeshError
from mesh_wire.settings import Simulation
from router_svc.replicas import standing
from support.asking import greedy
from support.calls import outcome, whole
from support.engines import Failing, Loaded
from support.mesh import RunningRouter, running_expert, running_router
from support.waiting import eventually


@asynccontextmanager
async def one_that_fails_and_another(alone_s: float) -> AsyncIterator[tuple[RunningRouter, Failing]]:
    """A mesh of one replica that fails, and one that does not and is always fuller."""
    broken = Failing(RuntimeError("a fault"))
    with patch.object(standing, "ALONE_S", alone_s):
        async with (
            running_expert(name="broken", engine=broken) as one,
            running_expert(name="sound", engine=Loaded(running=60)) as other,
            running_router(one.target, other.target) as router,
        ):
            await eventually(lambda: has(router, "broken", "sound"))
            yield router, broken


async def has(router: RunningRouter, *names: str) -> bool:
    return set(names) <= set(await router.serving())


async def ask(router: RunningRouter, times: int) -> list[str]:
    """Ask one after the other; returns who answered, or the status."""
    found = []
    for _ in range(times):
        said = await outcome(router.inference.Generate(GenerateRequest(prompt="hello")))
        found.append(said.code.name if isinstance(said, MeshError) else said.route.replica)
    return found


async def test_a_replica_that_fails_again_and_again_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with one_that_fails_and_another(alone_s=60) as (router, broken):
        said = await ask(router, 12)

    assert said.count("INTERNAL") == standing.FAILURES == len(broken.requests)
    assert said[-1] == "sound"
    assert "broken is not asked for 60 s: it failed 3 times in a row" in caplog.text


async def test_it_is_asked_once_more_now_and_then_and_comes_back_when_it_answers() -> None:
    async with one_that_fails_and_another(alone_s=0.001) as (router, broken):
        await eventually(lambda: _gets_another(router, broken, standing.FAILURES + 2))
        with patch.object(Failing, "_pieces", Failing.sound):
            await eventually(lambda: _answers(router, "broken"))
            assert set(await ask(router, 4)) <= {"broken", "sound"}


async def _gets_another(router: RunningRouter, broken: Failing, times: int) -> bool:
    await ask(router, 1)
    return len(broken.requests) >= times


async def _answers(router: RunningRouter, name: str) -> bool:
    return await ask(router, 1) == [name]


async def test_the_last_of_its_kind_is_asked_on_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    broken = Failing(RuntimeError("a fault"), "math")
    async with (
        running_expert(name="broken", engine=broken) as one,
        running_expert("general", name="sound") as other,
        running_router(one.target, other.target) as router,
    ):
        await eventually(lambda: has(router, "broken", "sound"))
        for _ in range(2 * standing.FAILURES):
            said = await outcome(router.inference.Generate(GenerateRequest(prompt="hello", expert="math")))
            assert isinstance(said, MeshError)
            assert said.code is grpc.StatusCode.INTERNAL

    assert "broken is asked on, though it failed" in caplog.text
    assert len(broken.requests) == 2 * standing.FAILURES


async def test_one_that_was_left_alone_is_asked_again_when_the_others_have_gone() -> None:
    async with running_expert(name="leaves", engine=Loaded(running=60)) as leaving:
        broken = Failing(RuntimeError("a fault"))
        async with (
            running_expert(name="broken", engine=broken) as one,
            running_router(one.target, leaving.target) as router,
        ):
            await eventually(lambda: has(router, "broken", "leaves"))
            await ask(router, 6)
            assert len(broken.requests) == standing.FAILURES
            await leaving.server.withdraw()
            await eventually(lambda: _gets_another(router, broken, standing.FAILURES + 1))


async def test_one_that_is_far_slower_than_its_siblings_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running_expert(name="slow", simulation=Simulation(step_base_s=0.4)) as slow,
        running_expert(name="quick", simulation=Simulation(step_base_s=0.01)) as quick,
        running_router(slow.target, quick.target) as router,
    ):
        await eventually(lambda: has(router, "slow", "quick"))
        busy = [router.inference.Generate(greedy(max_new_tokens=1000)) for _ in range(8)]
        await eventually(lambda: "slow is not asked for" in caplog.text)
        assert (await whole(router.inference.Generate(greedy(max_new_tokens=1)))).route.replica == "quick"
        for call in busy:
            call.cancel()

    assert "far longer than its siblings'" in caplog.text
