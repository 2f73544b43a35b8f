"""`expertmesh top` against a real router: what it shows, and how it comes and goes."""

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from expertmesh.v1.generation_pb2 import RouteReason
from expertmesh.v1.router_pb2 import ListExpertsResponse
from expertmesh_client import AsyncClient
from expertmesh_client.cli import app
from expertmesh_client.top.frame import frame
from expertmesh_client.top.looking import Look, looks
from mesh_wire.deadlines import seconds
from mesh_wire.errors import MeshError, Unavailable
from support.asking import greedy
from support.calls import failure, whole
from support.mesh import RunningRouter, running_expert, running_mesh, running_router
from support.strategies import ByWord
from support.waiting import eventually
from support.workers import running_workers

WORDS = {"sum": "math", "bug": "coding", "dinner": "general"}
EXPERTS = {"expert-a": ["general", "math"], "expert-b": ["coding"], "expert-c": ["math"]}
CONFIDENT = RouteReason.ROUTE_REASON_CONFIDENT
LEAVES_SCREEN, SHOWS_CURSOR = b"\x1b[?1049l", b"\x1b[?25h"


@asynccontextmanager
async def busy_mesh() -> AsyncIterator[RunningRouter]:
    """A mesh that has answered, and that holds one request."""
    async with running_mesh(EXPERTS, strategy=ByWord(WORDS), threshold=0.5) as mesh:
        for prompt in ("a sum", "another sum", "a bug", "dinner", "hm"):
            await whole(mesh.inference.Generate(greedy(prompt)))
        engine = mesh.experts["expert-b"].engine
        engine.stall()
        inside = mesh.inference.Generate(greedy("a bug"))
        await eventually(lambda: engine.held == 1)

        async def told() -> bool:
            replicas = [one for expert in (await mesh.fleet()).experts for one in expert.replicas]
            return any(one.load.running + one.load.waiting for one in replicas if one.name == "expert-b")

        await eventually(told)
        yield mesh
        engine.resume()
        await whole(inside)


def drawn(look: Look, columns: int, now: float | None = None) -> list[str]:
    """A frame's lines in a terminal of so many columns."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(frame(look, look.told_at if now is None else now, 1.0))
    return [line.rstrip() for line in console.export_text().splitlines()]


def cells(lines: list[str], first: str) -> list[str]:
    """The words of the line that begins with this one."""
    [line] = [line for line in lines if line.split()[:1] == [first]]
    return line.split()


async def seen(mesh: RunningRouter) -> Look:
    return Look(mesh.target, await mesh.fleet(), time.monotonic())


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_frame_shows_every_expert_and_replica_within_the_terminal(columns: int) -> None:
    async with busy_mesh() as mesh:
        lines = drawn(await seen(mesh), columns)

    assert max(map(len, lines)) <= columns
    headers = [line.split() for line in lines if line.startswith(("EXPERT", "REPLICA"))]
    assert headers[0] == ["EXPERT", "UP", "ROUTES/S", "FIRST", "p50", "p95", "BY", "REASON"]
    assert headers[1] == ["REPLICA", "STATE", "RUN", "WAIT", "KV", "TOK/S", "EXPECT", "OURS", "SERVES"]
    assert cells(lines, "math")[1] == "2/2"
    assert cells(lines, "general")[1:3] == ["*", "1/1"]
    assert "confident" in cells(lines, "math")[-2]
    assert "unsure" in " ".join(cells(lines, "general"))
    for name in EXPERTS:
        assert cells(lines, name)[1] == "serving"
    assert cells(lines, "expert-a")[-1] == "math"
    assert sum(map(int, cells(lines, "expert-b")[2:4])) == 1
    assert "3 of 3 replicas " in lines[0]


async def test_routes_and_first_tokens_are_counted_by_expert_and_reason() -> None:
    async with busy_mesh() as mesh:
        fleet = await mesh.fleet()

    found = {expert.name: expert.activity for expert in fleet.experts}
    assert [(each.reason, each.routes) for each in found["math"].reasons] == [(CONFIDENT, 2)]
    assert sorted(each.routes for each in found["general"].reasons) == [1, 1]
    assert {name: activity.first_tokens for name, activity in found.items()} == {"math": 2, "general": 2, "coding": 1}
    for activity in found.values():
        assert 0 < seconds(activity.first_token_p50) <= seconds(activity.first_token_p95)
        assert activity.routes_per_second > 0
    assert (fleet.process.worker, fleet.process.workers) == (1, 1)
    assert all(each.HasField("expected_wait") for expert in fleet.experts for each in expert.replicas)


async def test_direct_routes_count_and_a_replica_that_is_down_has_no_load() -> None:
    async with AsyncExitStack() as life:
        brief = AsyncExitStack()
        life.push_async_callback(brief.aclose)
        expert = await brief.enter_async_context(running_expert("general", name="brief"))
        mesh = await life.enter_async_context(running_router(expert.target, serves=["general"]))
        async with AsyncClient(mesh.target, direct=True) as client:
            await client.generate("x", sampling=greedy().sampling).read()
        [told] = (await mesh.fleet()).experts
        assert sum(each.routes for each in told.activity.reasons) == 1
        assert told.activity.first_tokens == 0, "it did not pass the router"
        await brief.aclose()

        async def down() -> bool:
            return not (await mesh.serving())

        await eventually(down)
        lines = drawn(await seen(mesh), 100)
        assert cells(lines, "brief")[1:7] == ["down", "–", "–", "–", "–", "–"]
        assert cells(lines, "general")[2] == "0/1"
        assert "0 of 1 replicas " in lines[0]


async def test_refusals_are_told() -> None:
    async with running_mesh(max_in_flight=1) as mesh:
        engine = mesh.experts["a"].engine
        engine.stall()
        inside = mesh.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "ROUTER_BUSY"
        lines = drawn(await seen(mesh), 120)
        engine.resume()
        await whole(inside)

    assert "1 refused since its start" in lines[2]


async def test_of_several_workers_the_one_that_tells_is_named(tmp_path: Path) -> None:
    async with (
        running_expert() as expert,
        running_workers(tmp_path, expert.target, workers=2) as router,
        AsyncClient(router.target) as client,
    ):
        look = Look(router.target, await client.experts(), 0.0)

    assert look.fleet is not None
    assert look.fleet.process.workers == 2
    assert f"worker {look.fleet.process.worker} of 2 tells, of its own requests only" in drawn(look, 120)[2]


def test_a_router_that_does_not_answer_is_said_beside_what_it_told_last() -> None:
    never = drawn(Look("far:1", None, trouble="gone"), 80)
    assert never == ["far:1 does not answer: gone; it is asked again every 1 s"]
    fleet = ListExpertsResponse(strategy="lexical", generation=2)
    lines = drawn(Look("far:1", fleet, told_at=5.0, trouble="gone"), 80, now=17.0)
    assert lines[:2] == ["far:1 does not answer: gone; it is asked again every 1 s", "as it was 12 s ago:"]


async def test_looking_goes_on_while_a_router_is_away() -> None:
    answers: list[ListExpertsResponse | MeshError] = [
        ListExpertsResponse(generation=1),
        Unavailable("gone", reason="UNAVAILABLE"),
        ListExpertsResponse(generation=2),
    ]

    async def ask() -> ListExpertsResponse:
        answer = answers.pop(0)
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async with aclosing(looks("there:1", ask, 0.001)) as seen:
        found = [await anext(seen) for _ in range(3)]
    assert [bool(look.trouble) for look in found] == [False, True, False]
    assert [look.fleet.generation for look in found if look.fleet] == [1, 1, 2]


# The command


async def test_once_prints_one_frame() -> None:
    async with busy_mesh() as mesh:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["top", "--once", "--target", mesh.target])

    assert done.exit_code == 0, done.output
    assert cells(done.stdout.splitlines(), "expert-c")[1] == "serving"
    assert "\x1b" not in done.stdout


async def test_json_is_an_object_of_a_line() -> None:
    async with busy_mesh() as mesh:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["top", "--once", "--json", "--target", mesh.target])

    [line] = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["target"], told["trouble"], told["worker"], told["workers"]) == (mesh.target, None, 1, 1)
    experts = {expert["name"]: expert for expert in told["experts"]}
    assert experts["math"]["reasons"] == {"confident": 2}
    assert experts["math"]["first_token_p50_s"] > 0
    replicas = {replica["name"]: replica for replica in told["replicas"]}
    assert replicas["expert-a"]["serves"] == ["general", "math"]
    assert replicas["expert-b"]["outstanding"] == 1
    assert replicas["expert-b"]["expected_wait_s"] > 0


def test_once_fails_where_no_router_answers() -> None:
    done = CliRunner().invoke(app, ["top", "--once", "--target", "127.0.0.1:1"])

    assert done.exit_code == 1
    assert "error: " in done.stderr
    assert done.stdout == ""


async def test_into_a_pipe_comes_one_object_after_the_other_until_it_is_told_to_stop() -> None:
    async with running_mesh() as mesh:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "expertmesh_client", "top", "--json", "--interval", "0.1"),
            *("--target", mesh.target),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        await process.stdout.read()
        assert await process.wait() == 0
    assert [line["experts"][0]["name"] for line in lines] == ["general"] * 3


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
async def test_a_terminal_is_left_as_it_was(told: signal.Signals) -> None:
    async with running_mesh() as mesh:
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own; it starts in an instant
                [sys.executable, "-m", "expertmesh_client", "top", "--target", mesh.target, "--interval", "0.1"],
                stdin=theirs,
                stdout=theirs,
                env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            )
            screen = Screen(ours)
            await eventually(lambda: b"REPLICA" in screen.read())
            process.send_signal(told)
            await eventually(lambda: process.poll() is not None)
            screen.read()
        finally:
            os.close(theirs)
            os.close(ours)
    assert process.returncode == 0
    assert screen.shown.rfind(LEAVES_SCREEN) > screen.shown.rfind(b"REPLICA")
    assert screen.shown.rfind(SHOWS_CURSOR) > screen.shown.rfind(b"REPLICA")


class Screen:
    """What a terminal was told."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.shown = b""
        os.set_blocking(terminal, False)

    def read(self) -> bytes:
        while True:
            try:
                told = os.read(self._terminal, 65536)
            except OSError:  # nothing more for now
                return self.shown
            if not told:
                return self.shown
            self.shown += told
