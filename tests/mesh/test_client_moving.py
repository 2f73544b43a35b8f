"""A client that knows several routers: when one is gone, the next goes on with the answers under way."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, Resume, RouteChosen, Sampling
from expertmesh_client import AsyncClient, Client
from expertmesh_client.places import targets_of
from mesh_wire.errors import MeshError
from mesh_wire.settings import Simulation
from support.cable import Cable, cable
from support.engines import ByHand
from support.mesh import RunningExpert, running_expert, running_router
from support.waiting import eventually
from support.workers import running_workers

PACE = Simulation(step_base_s=0.002)
TOKENS = 250


@dataclass
class Pair:
    """Two routers behind cables, before the same replicas."""

    experts: list[RunningExpert]
    lines: list[Cable]

    @property
    def targets(self) -> list[str]:
        return [line.target for line in self.lines]

    @property
    def held(self) -> int:
        return sum(expert.engine.held for expert in self.experts)


@asynccontextmanager
async def pair(*engines: Any) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as life:
        experts = [
            await life.enter_async_context(running_expert("general", name=f"r{at}", engine=engine, simulation=PACE))
            for at, engine in enumerate(engines or (None, None))
        ]
        lines = []
        for _ in range(2):
            router = await life.enter_async_context(running_router(*(expert.target for expert in experts)))
            lines.append(await life.enter_async_context(cable(router.port)))
        yield Pair(experts, lines)


@dataclass
class Got:
    """What a caller got."""

    prompt: str
    kinds: list[type] = field(default_factory=list)
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finished: Finished | None = None


def asked_in_numbers(client: AsyncClient) -> tuple[list[Got], list["asyncio.Task[None]"]]:
    """Ask for many long answers at once; returns what comes of them, and what brings it."""
    answers = [Got(f"question {number}") for number in range(20)]
    return answers, [asyncio.create_task(read(client, got)) for got in answers]


async def read(client: AsyncClient, got: Got) -> None:
    sampling = {"max_new_tokens": TOKENS, "ignore_eos": True}
    async for event in client.generate(got.prompt, sampling=sampling).events():
        got.kinds.append(type(event))
        if isinstance(event, Delta):
            got.text += event.text
            got.tokens += event.token_ids
        elif isinstance(event, Finished):
            got.finished = event


def check(got: Got) -> None:
    request = GenerateRequest(prompt=got.prompt, sampling=Sampling(max_new_tokens=TOKENS, ignore_eos=True))
    assert (got.text, got.tokens) == expected_answer("general", request)
    assert got.kinds[0] is RouteChosen
    assert got.kinds.count(RouteChosen) == 1
    assert got.finished is not None
    assert got.finished.usage.completion_tokens == TOKENS


@pytest.mark.parametrize("fail", [Cable.cut, Cable.swallow], ids=lambda fail: fail.__name__)
@pytest.mark.parametrize("over", ["session", "generate"])
async def test_a_router_that_is_lost_loses_nobody_a_token(over: Any, fail: Callable[[Cable], None]) -> None:
    async with pair() as routers, AsyncClient(routers.targets, over=over) as client:
        answers, reading = asked_in_numbers(client)
        await eventually(lambda: sum(bool(got.tokens) for got in answers) > 10)

        fail(routers.lines[0])

        await asyncio.gather(*reading)
        for got in answers:
            check(got)
        assert any(got.finished.resumed for got in answers if got.finished)
        await eventually(lambda: routers.held == 0)


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_a_router_that_is_killed_loses_nobody_a_token(tmp_path: Path, over: Any) -> None:
    async with AsyncExitStack() as life:
        expert = await life.enter_async_context(running_expert("general", simulation=PACE))
        routers = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            entered = running_workers(tmp_path / name, expert.target, workers=1)
            routers.append(await life.enter_async_context(entered))
        targets = ",".join(router.target for router in routers)
        client = await life.enter_async_context(AsyncClient(targets, over=over))
        answers, reading = asked_in_numbers(client)
        await eventually(lambda: sum(bool(got.tokens) for got in answers) > 10)

        os.kill(routers[0].process.pid, signal.SIGKILL)

        await asyncio.gather(*reading)
        for got in answers:
            check(got)
        await eventually(lambda: expert.engine.held == 0)


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_an_expert_that_is_still_at_a_lost_router_s_attempt_answers_the_next(over: Any) -> None:
    engine = ByHand()
    async with pair(engine) as routers, AsyncClient(routers.targets, over=over) as client:
        answer = client.generate("a", request_id="once")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: engine.held == 1)

        routers.lines[0].swallow()  # so the router behind it does not learn that its caller is gone

        await eventually(lambda: engine.held == 2)
        engine.say()
        engine.finish()
        await reading
        assert answer.finished is not None
        assert answer.finished.resumed == 0  # it had not begun


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_a_server_that_never_heard_that_a_connection_broke_answers_the_next_try(over: Any) -> None:
    engine = ByHand()
    async with (
        running_expert("general", engine=engine) as expert,
        cable(expert.port) as line,
        AsyncClient(line.target, over=over) as client,
    ):
        answer = client.generate("a", request_id="mine")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: engine.held == 1)

        line.forget()

        await eventually(lambda: engine.held == 2 or reading.done())
        engine.finish()
        await reading
        assert answer.finished is not None
        assert (answer.finished.request_id, answer.finished.resumed) == ("mine", 0)


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_what_cannot_go_on_rightly_ends_by_name(over: Any) -> None:
    engine = ByHand()
    async with pair(engine) as routers, AsyncClient(routers.targets, over=over) as client:
        answer = client.generate("a", sampling={"presence_penalty": 1.0})
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: engine.held == 1)
        engine.say()
        await eventually(lambda: answer.text)

        routers.lines[0].cut()

        with pytest.raises(MeshError) as ended:
            await reading
    assert (ended.value.reason, ended.value.facts["tokens_sent"]) == ("RESUME_UNSUPPORTED", "1")
    assert len(engine.requests) == 1


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_all_routers_gone_is_an_error_in_bounded_time(over: Any) -> None:
    async with pair() as routers, AsyncClient(routers.targets, over=over) as client:
        for line in routers.lines:
            line.cut()

        with pytest.raises(MeshError) as ended:
            await client.generate("a").read()

        assert ended.value.code is grpc.StatusCode.UNAVAILABLE


async def test_an_answer_without_a_token_is_asked_for_anew() -> None:
    engine = ByHand()
    async with pair(engine) as routers, AsyncClient(routers.targets) as client:
        reading = asyncio.create_task(client.generate("a", sampling={"presence_penalty": 1.0}).read())
        await eventually(lambda: len(engine.requests) == 1)

        routers.lines[0].cut()

        await eventually(lambda: len(engine.requests) == 2)
        assert engine.requests[1].resume == Resume(attempt=1)
        await eventually(lambda: engine.held == 1)
        engine.say("here")
        engine.finish()
        assert await reading == "here"


async def test_decisions_and_the_fleet_are_told_by_the_next_router() -> None:
    async with pair() as routers, AsyncClient(routers.targets) as client:
        routers.lines[0].cut()

        assert (await client.route("a", expert="general")).route.expert == "general"
        assert [expert.name for expert in (await client.experts()).experts] == ["general"]


async def test_the_blocking_client_knows_several_routers_too() -> None:
    def ask(targets: str) -> str:
        with Client(targets) as client:
            return client.generate("question 1", sampling={"max_new_tokens": 5, "ignore_eos": True}).read()

    async with pair() as routers:
        routers.lines[0].cut()
        text = await asyncio.to_thread(ask, ", ".join(routers.targets))

    request = GenerateRequest(prompt="question 1", sampling=Sampling(max_new_tokens=5, ignore_eos=True))
    assert text == expected_answer("general", request)[0]


@pytest.mark.parametrize(
    ("target", "targets"),
    [
        ("a:1", ["a:1"]),
        ("a:1,b:2", ["a:1", "b:2"]),
        (" a:1 , dns:///b:2 ", ["a:1", "dns:///b:2"]),
        (["a:1", "b:2"], ["a:1", "b:2"]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", ["ipv4:10.0.0.1:1,10.0.0.2:2"]),
        ("unix:/tmp/x", ["unix:/tmp/x"]),
    ],
)
def test_targets_stand_in_a_list_or_with_commas_between_them(target: str | list[str], targets: list[str]) -> None:
    assert targets_of(target) == targets
