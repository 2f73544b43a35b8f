"""A request leaves nothing for the garbage collector, which a router lets come seldom."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from expertmesh_client import AsyncClient
from mesh_wire.asked import Asked
from mesh_wire.errors import BadInput, DeadlinePassed
from support.engines import ByHand
from support.mesh import RunningRouter, running_mesh
from support.waiting import eventually

REQUESTS = 10


EARLIER: list[Asked] = []  # what tests before this one left in the process


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    EARLIER.extend(known())
    gc.disable()
    yield
    gc.enable()
    EARLIER.clear()


def known() -> list[Asked]:
    return [one for one in gc.get_objects() if type(one) is Asked]


def asked() -> int:
    """How many requests this process has in its memory: those of the router and those of its expert."""
    earlier = {id(one) for one in EARLIER}
    return sum(id(one) not in earlier for one in known())


async def answered(client: AsyncClient, engine: ByHand) -> None:
    asking = asyncio.create_task(client.generate("hello").read())
    await eventually(lambda: engine.held == 1)
    engine.say()
    assert asked() >= 2  # else this finds none wherever it looks
    engine.finish()
    assert await asking


async def left(client: AsyncClient, engine: ByHand) -> None:
    asking = asyncio.create_task(client.generate("hello").read())
    await eventually(lambda: engine.held == 1)
    engine.say()
    asking.cancel()
    await asyncio.wait((asking,))


async def late(client: AsyncClient, engine: ByHand) -> None:
    with pytest.raises(DeadlinePassed):
        await client.generate("hello", timeout_s=0.05).read()


async def failed(client: AsyncClient, engine: ByHand) -> None:
    asking = asyncio.create_task(client.generate("hello").read())
    await eventually(lambda: engine.held == 1)
    engine.say()
    engine.fail(BadInput("no", reason="PROMPT_TOO_LONG"))
    with pytest.raises(BadInput):
        await asking


@pytest.mark.parametrize("over", ["session", "generate"])
@pytest.mark.parametrize("end", [answered, left, late, failed])
async def test_what_a_request_had_is_gone_with_it(over: Any, end: Callable[[AsyncClient, ByHand], Any]) -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh, AsyncClient(mesh.target, over=over, timeout_s=30) as client:
        for _ in range(REQUESTS):
            await end(client, engine)
            await eventually(lambda: engine.held == 0)

        await free(mesh)
        await eventually(lambda: asked() == 0)


async def free(mesh: RunningRouter) -> None:
    async def settled() -> bool:
        return await mesh.outstanding() == 0

    await eventually(settled)
