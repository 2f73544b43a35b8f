"""Bytes that no honest caller sends: each ends in a named refusal, or in an answer to what they happen to say."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import validation
from mesh_wire.errors import MeshError
from mesh_wire.settings import Simulation
from support.asking import greedy
from support.calls import whole
from support.fuzzing import CORPUS, TAKES, mutants
from support.mesh import RunningExpert, RunningRouter, running_expert, running_router
from support.waiting import eventually

CASES = int(os.environ.get("HOSTILE_CASES", "300"))  # `make fuzz` tries half a million
SEED = int(os.environ.get("HOSTILE_SEED", "20"))
AT_ONCE = 16
LONGEST_S = 2.0  # that a case may take to be answered; what it happened to ask for may take longer, and is then left
# What hostile bytes may be told. Never INTERNAL or UNKNOWN: those would be ours.
TOLD = {
    *("OK", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
    *("ALREADY_EXISTS", "UNAVAILABLE", "FAILED_PRECONDITION"),
}


@dataclass
class Mesh:
    """A router, and the expert behind it."""

    router: RunningRouter
    expert: RunningExpert

    def channel(self, path: str) -> grpc.aio.Channel:
        return self.expert.channel if "ExpertService" in path else self.router.channel


@asynccontextmanager
async def mesh() -> AsyncIterator[Mesh]:
    async with (
        running_expert(simulation=Simulation(step_base_s=0.0), max_in_flight=64) as expert,
        running_router(expert.target, strategy="random", serves=["general"]) as router,
    ):
        await eventually(lambda: ready(router))
        yield Mesh(router, expert)


async def ready(router: RunningRouter) -> bool:
    return await router.serving() == ["a"]


async def told(mesh: Mesh, path: str, data: bytes) -> str:
    """Send bytes as a message; returns the status that the call ends with."""

    async def sent() -> AsyncIterator[bytes]:
        yield data

    call = mesh.channel(path).stream_stream(path)(sent(), timeout=LONGEST_S)
    with suppress(grpc.RpcError):
        async for _ in call:
            pass
    if (code := await call.code()) is not grpc.StatusCode.OK:
        assert "Traceback" not in await call.details()
    return code.name


async def all_told(mesh: Mesh, cases: int, seed: int) -> Counter[str]:
    """Send so many cases, some at once; returns how often each status came."""
    statuses: Counter[str] = Counter()
    made = mutants(random.Random(seed))

    async def some() -> None:
        for _ in range(cases // AT_ONCE):
            path, data = next(made)
            status = await told(mesh, path, data)
            assert status in TOLD, f"{path} told {status} of {data.hex()} (seed {seed})"
            statuses[status] += 1

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return statuses


async def test_mutated_messages_end_in_a_named_status_and_leave_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with mesh() as ours:
        statuses = await all_told(ours, CASES, SEED)
        await eventually(lambda: at_rest(ours))
        answer = await whole(ours.router.inference.Generate(greedy(max_new_tokens=3)))

    assert statuses["INVALID_ARGUMENT"] > CASES / 10
    assert len(answer.token_ids) == 3
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def at_rest(mesh: Mesh) -> bool:
    load = mesh.expert.engine.board.latest
    return not load.running and not load.waiting and not await mesh.router.outstanding()


@pytest.mark.parametrize(("kind", "data"), CORPUS, ids=[f"{kind.__name__} {data[:12]}" for kind, data in CORPUS])
async def test_what_once_broke_something_does_no_longer(kind: type[Message], data: str) -> None:
    async with mesh() as ours:
        for path in (path for path, taken in TAKES.items() if taken is kind):
            assert await told(ours, path, bytes.fromhex(data)) in TOLD


@given(st.binary(max_size=200))
def test_whatever_parses_is_accepted_or_refused_with_a_reason(data: bytes) -> None:
    refusal = None
    with suppress(DecodeError):
        request = GenerateRequest.FromString(data)
        try:
            validation.check(request)
        except MeshError as error:
            refusal = error

    assert refusal is None or refusal.reason
