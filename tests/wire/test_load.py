"""A load on a real server: what it counts, how it ends, and what it says where it cannot go on."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from expertmesh_client.cli import app
from expertmesh_client.load import ceiling
from expertmesh_client.load.climb import acquainted, climb
from expertmesh_client.load.crew import crew_of
from expertmesh_client.load.plan import PER_USER, Job, Rung
from expertmesh_client.load.problems import BadLoad, LoadFailed
from mesh_wire.auth.sections import CallerSection, KnownCaller
from mesh_wire.auth.tokens import hash_of, new_token
from mesh_wire.errors import Busy, MeshError
from support.mesh import running_expert, running_mesh
from support.scripted import scripted
from support.waiting import eventually

QUICK: dict[str, Any] = {"warm_s": 0.1, "last_s": 0.5, "drain_s": 5}


async def climbed(target: str, *rungs: Rung, **job: Any) -> list[dict[str, Any]]:
    """Climb a ladder; returns its results."""
    results: list[dict[str, Any]] = []
    await climb(await acquainted(Job(target=target, **job)), rungs, results.append)
    return results


async def started(*args: str, **env: str) -> asyncio.subprocess.Process:
    """Start the command as a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "expertmesh_client", "load", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_a_closed_loop_asks_again_when_it_was_answered(over):
    async with scripted() as node:
        [result] = await climbed(node.target, Rung(users=3, **QUICK), over=over, skew={"math": 1.0})

    assert result["complete"]
    assert result["answered"] == result["asked"] > 3
    assert (result["failed"], result["unfinished"], result["mean_output_tokens"]) == (0, 0, 3)
    assert result["routed"]["accuracy"] == 1.0
    assert result["routed"]["reasons"] == {"confident": result["answered"]}
    assert 0 < result["first_token_s"]["p50"] <= result["session_s"]["p50"]
    assert node.running == 0


@pytest.mark.parametrize("over", ["session", "generate", "direct"])
async def test_a_load_says_who_asks_and_tells_nobody_by_what(over: Any, tmp_path: Path):
    token, file = new_token(), tmp_path / "token"
    file.write_text(token)
    known = CallerSection(known=(KnownCaller(name="load", token_sha256=(hash_of(token),)),))
    async with running_mesh(callers=known, expert_section={"accepts": ["anybody"]}) as mesh:
        args = (
            "--target",
            mesh.target,
            "--users",
            "2",
            "--warm-up",
            "0",
            "--duration",
            "0.3",
            "--over",
            over,
            "--json",
        )
        process = await started(*args, "--token-file", str(file))
        out, err = await process.communicate()
        refused = await started(*args)
        words = (await refused.communicate())[1].decode()

    [result] = json.loads(out)["rungs"]
    assert result["answered"] == result["asked"] > 0
    assert token not in (out + err).decode()
    assert refused.returncode == 1
    assert "CREDENTIALS_MISSING" in words


async def test_an_open_loop_asks_however_slow_the_answers_are():
    async with scripted(endless=True) as node:
        [result] = await climbed(node.target, Rung(rate=100, warm_s=0, last_s=0.5, drain_s=0.1))
        assert len(node.asked) > 20
        await eventually(lambda: not node.running)

    assert result["asked"] == result["unfinished"] == len(node.asked)
    assert result["session_s"]["max"] > 0.4


async def test_two_processes_make_one_account():
    async with scripted() as node:
        one, other = await climbed(node.target, Rung(users=4, **QUICK), Rung(number=1, rate=50, **QUICK), processes=2)
        assert node.sessions == 2

    assert one["answered"] == one["asked"] > 4
    assert other["answered"] == other["asked"] > 10


async def test_each_user_may_have_a_connection_of_its_own():
    async with scripted() as node:
        await climbed(node.target, Rung(users=5, **QUICK), connections=PER_USER)
        assert node.sessions == 5


async def test_errors_count_by_their_reason():
    refusals: list[MeshError] = [Busy("full house", reason="ROUTER_BUSY", retry_after_s=0.01) for _ in range(4)]
    async with scripted(refusals=refusals) as node:
        [result] = await climbed(node.target, Rung(users=2, warm_s=0, last_s=0.5, drain_s=5))

    assert result["errors"] == {"ROUTER_BUSY": {"count": 4, "example": "ROUTER_BUSY: full house"}}
    assert result["asked"] == result["answered"] + 4


async def test_a_deadline_is_kept_though_the_server_does_not():
    async with scripted(endless=True) as node:
        [result] = await climbed(node.target, Rung(users=1, warm_s=0, last_s=0.2, drain_s=20), timeout_s=0.1)

    assert list(result["errors"]) == ["DEADLINE_PASSED"]


@pytest.mark.parametrize("over", ["session", "generate", "direct"])
async def test_a_mesh_is_asked_in_every_way(over):
    async with running_mesh({"a": ("general", "math"), "b": ("coding",)}) as mesh:
        [result] = await climbed(mesh.target, Rung(users=4, **QUICK), over=over, output_tokens="5", exact=True)

    assert result["answered"] == result["asked"] > 4
    assert set(result["routed"]["experts"]) == {"general", "math", "coding"}
    assert result["mean_output_tokens"] == 5
    assert result["routed"]["by_label"]["law"]["expected"] == "general"


async def test_an_expert_is_asked_directly_and_has_no_routes():
    async with running_expert("math") as expert:
        [result] = await climbed(expert.target, Rung(users=2, **QUICK), expert="math", output_tokens="4")
        with pytest.raises(BadLoad, match="is an expert, and only a router decides"):
            await climbed(expert.target, Rung(users=1, **QUICK), over="direct")

    assert result["answered"] == result["asked"] > 2
    assert result["routed"]["accuracy"] is None


async def test_an_expert_that_nobody_serves_is_refused_before_anything_starts():
    async with scripted() as node:
        with pytest.raises(BadLoad, match="nobody in the fleet is called law; there are math, general"):
            await climbed(node.target, Rung(users=1, **QUICK), expert="law")
        assert not node.asked


async def test_a_worker_that_ends_is_a_failure_with_its_last_words():
    async with scripted(endless=True) as node, crew_of(Job(target=node.target)) as crew:
        running = asyncio.create_task(crew.run(Rung(users=1, last_s=60)))
        await eventually(lambda: node.running)
        crew._workers[0].kill()
        with pytest.raises(LoadFailed, match="a generator process ended with -9"):
            await running
        await eventually(lambda: not node.running)


async def test_the_ceiling_is_measured_against_an_endpoint_of_its_own(monkeypatch):
    monkeypatch.setattr(ceiling, "LAST_S", 0.4)
    monkeypatch.setattr(ceiling, "WARM_S", 0.1)
    found = await ceiling.measure_ceiling(Job(target="nowhere:1", think_s="5", over="generate"))

    assert found.requests_per_s > 10
    assert found.tokens_per_s > found.requests_per_s
    assert found.us_per_request > found.us_per_token > 0


async def test_the_command_prints_a_table_and_writes_files(tmp_path: Path):
    json_file, csv_file = tmp_path / "r.json", tmp_path / "r.csv"
    async with scripted() as node:
        options = ["--users", "1,2", "--duration", "0.4", "--warm-up", "0.1", "--target", node.target]
        process = await started(*options, "--out", str(json_file), "--out", str(csv_file))
        stdout, stderr = (part.decode() for part in await process.communicate())

    assert process.returncode in (0, 3), stderr  # a machine that is busy may make any generator late
    lines = stdout.splitlines()
    assert lines[0].split() == ["users", "1", "2"]
    assert lines[1].startswith("answered")
    assert "1 of 2: 1 user" in stderr
    told = json.loads(json_file.read_text())
    assert (told["complete"], [rung["users"] for rung in told["rungs"]]) == (True, [1, 2])
    assert len(csv_file.read_text().splitlines()) == 3
    assert sorted(os.listdir(tmp_path)) == ["r.csv", "r.json"]


async def test_ctrl_c_keeps_and_marks_what_there_is(tmp_path: Path):
    kept = tmp_path / "kept.json"
    async with scripted() as node:
        options = ["--users", "2,4", "--duration", "60", "--warm-up", "0", "--target", node.target]
        process = await started(*options, "--json", "--out", str(kept))
        await eventually(lambda: len(node.asked) > 20)
        process.send_signal(signal.SIGINT)
        stdout, _ = await process.communicate()

    assert process.returncode == 130
    told = json.loads(stdout)
    assert told == json.loads(kept.read_text())
    assert not told["complete"]
    [rung] = told["rungs"]
    assert not rung["complete"]
    assert rung["answered"] > 10
    assert rung["unfinished"] <= 2
    assert rung["window_s"] < 60


async def test_a_load_that_nobody_answers_fails():
    refusals: list[MeshError] = [Busy("full house", reason="ROUTER_BUSY") for _ in range(1000)]
    async with scripted(refusals=refusals) as node:
        process = await started("--users", "1", "--duration", "0.3", "--warm-up", "0", "--target", node.target)
        _, stderr = await process.communicate()

    assert process.returncode == 1
    assert "× ROUTER_BUSY: full house" in stderr.decode()


async def test_a_target_that_is_not_there_is_one_line_and_exit_code_1():
    process = await started("--target", "127.0.0.1:1")
    stdout, stderr = await process.communicate()

    assert (process.returncode, stdout) == (1, b"")
    [line] = stderr.decode().splitlines()
    assert line.startswith("error: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--users 0", "--users: '0' is not a whole number above 0"),
        ("--users 1,ten", "--users: 'ten' is not a whole number above 0"),
        ("--rate 5,-1", "--rate: '5,-1' is not a number above 0"),
        ("--rate nan", "--rate: 'nan' is not a number above 0"),
        ("--users 1 --rate 1", "--users, --rate and --arrivals exclude each other"),
        ("--rate 1 --connections user", "--connections user: only a closed loop has users"),
        ("--connections none", "--connections: 'none' is not a whole number above 0"),
        ("--prompts missing.jsonl", "missing.jsonl: No such file"),
        ("--arrivals missing", "missing: No such file"),
        ("--output-tokens lots", "--output-tokens: 'lots' is no distribution"),
        ("--think -1", "--think: '-1' is no distribution"),
        ("--skew maths=0.8", "--skew: no prompt is labelled maths"),
        ("--over pigeon", "'pigeon' is not one of"),
        ("--connections 100000000", "file descriptors in a process"),
        ("--cert x.pem", "x.pem"),
    ],
)
def test_options_that_make_no_sense_are_one_line_and_exit_code_2(options, said):
    result = CliRunner().invoke(app, ["load", "--target", "127.0.0.1:1", *options.split()])

    assert result.exit_code == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "Traceback" not in result.stderr


async def test_ctrl_c_while_warming_up_says_that_nothing_counted():
    async with scripted() as node:
        process = await started("--users", "1", "--warm-up", "60", "--target", node.target)
        await eventually(lambda: node.asked)
        process.send_signal(signal.SIGINT)
        stdout, stderr = await process.communicate()

    assert (process.returncode, stdout) == (130, b"")
    assert stderr.decode().splitlines()[-1] == "interrupted before anything counted"
