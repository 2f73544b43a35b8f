"""`expertmesh up` and the demo as a user runs them: real processes, with simulated engines."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from expertmesh_client import AsyncClient
from expertmesh_client.child import Child
from expertmesh_client.running import reached, running_mesh
from mesh_wire.mesh_file import Mistakes
from mesh_wire.tls import ClientTls
from support.up import ENV, mesh_yaml, up
from support.waiting import eventually
from support.workers import gone

PEM = Path(__file__).parents[1] / "support" / "tls"


async def called(*args):
    """Run a module to its end; returns exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *map(str, args)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


def commands_naming(text):
    """The command lines of this machine's processes that have `text` in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_text(errors="replace"))
    return [command for command in found if text in command]


def pids(said):
    return [said["router"]["pid"], *(expert["pid"] for expert in said["experts"])]


async def test_a_mesh_comes_up_answers_shows_its_trace_and_leaves_nothing_behind(tmp_path):
    config, address = mesh_yaml(tmp_path)
    async with up("--config", config, "--simulated", "--json", "--logs", tmp_path / "logs") as process:
        said = json.loads(await process.stdout.readline())
        traces = ["--trace", "--jaeger", said["traces"]["query"]]
        ENV["OTEL_EXPORTER_OTLP_ENDPOINT"] = said["traces"]["otlp"]
        try:
            ask = ("expertmesh_client", "ask", "7 × 8?", "--target", address, "--max-tokens", "5")
            code, stdout, stderr = await called(*ask, *traces)
            _, data, _ = await called(*ask, *traces, "--json")
        finally:
            del ENV["OTEL_EXPORTER_OTLP_ENDPOINT"]
        process.terminate()
        rest, log = await process.communicate()

    assert (code, process.returncode) == (0, 0)
    assert said["router"]["address"] == address
    assert [(expert["name"], expert["serves"]) for expert in said["experts"]] == [
        ("expert-a", ["general", "math"]),
        ("expert-b", ["coding"]),
    ]
    assert "incomplete" not in stderr
    for span in ("route.admit", "route.classify", "route.select", "expert call", "engine.queue", "engine.decode"):
        assert span in stdout
    told = json.loads(data)
    assert set(told) >= {"text", "expert", "replica", "reason", "score", "usage", "timings"}
    assert told["usage"]["completion_tokens"] == 5
    assert set(told["timings"]) == {"admit", "classify", "select", "forward", "queue", "prefill", "decode"}
    assert all(gone(pid) for pid in pids(said))
    assert {file.name for file in (tmp_path / "logs").iterdir()} == {"router.log", "expert-a.log", "expert-b.log"}
    assert rest == b""
    assert b"stopping" in log


async def test_people_are_told_where_everything_is(tmp_path):
    config, address = mesh_yaml(tmp_path)
    async with up("--config", config, "--simulated", "--no-traces") as process:
        first = await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, progress = await process.communicate()

    assert process.returncode == 0, "Ctrl-C is how it ends"
    assert first.startswith(b"all SERVING after")
    said = rest.decode()
    assert f"--target {address}" in said
    assert "traces" not in said
    assert "expert-b: SERVING" in progress.decode()
    assert max(map(len, said.splitlines())) <= 80 + len(str(tmp_path))


async def test_every_mistake_of_the_file_is_said_before_anything_starts(tmp_path):
    config, address = mesh_yaml(tmp_path, wizard=1, threshold=7)
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        code, stdout, stderr = await called("expertmesh_client", "up", "--config", config, "--simulated")

    lines = stderr.splitlines()
    assert (code, stdout) == (2, "")
    assert all(line.startswith("error: ") for line in lines)
    for part in ("router.wizard", "router.threshold", "router.listen: cannot listen on"):
        assert any(part in line for line in lines), part


async def test_a_process_that_does_not_start_says_why_in_one_line(tmp_path):
    """An artefact that is no artefact: the file can name it, the router cannot use it."""
    (tmp_path / "empty").mkdir()
    config, _ = mesh_yaml(tmp_path, strategy="clusters", artefact="empty")
    code, stdout, stderr = await called("expertmesh_client", "up", "--config", config, "--simulated")

    assert (code, stdout) == (1, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("error: router did not start: ")
    assert "empty" in last
    assert "router.log" in last


async def test_a_process_that_dies_is_started_again_and_answers(tmp_path):
    config, address = mesh_yaml(tmp_path)
    async with up("--config", config, "--simulated", "--json") as process:
        said = json.loads(await process.stdout.readline())
        serving = 0
        while serving < 3:  # in whatever order
            serving += b": SERVING" in await process.stderr.readline()
        for child, name in ((said["experts"][1], b"expert-b"), (said["router"], b"router")):
            os.kill(child["pid"], signal.SIGKILL)
            assert (await process.stderr.readline()).startswith(name + b" ended: was ended by SIGKILL")
            assert (await process.stderr.readline()).startswith(name + b" serves again")
        async with AsyncClient(address) as client:
            await eventually(lambda: has_all(client))
            answer = await client.generate("2 + 2?", expert="coding", sampling={"max_new_tokens": 3}).read()
        process.terminate()
        await process.communicate()

    assert answer
    assert process.returncode == 0
    assert not commands_naming(str(config))


async def has_all(client):
    """Whether the router has found all three experts."""
    return sum(expert.available for expert in (await client.experts()).experts) == 3


async def test_a_process_that_dies_takes_the_mesh_down_by_name_where_that_is_wished(tmp_path):
    config, _ = mesh_yaml(tmp_path)
    async with up("--config", config, "--simulated", "--json", "--no-restart") as process:
        said = json.loads(await process.stdout.readline())
        os.kill(said["experts"][1]["pid"], signal.SIGKILL)
        _, stderr = await process.communicate()

    assert process.returncode == 1
    assert stderr.decode().splitlines()[-1].startswith("error: expert-b ended: was ended by SIGKILL")
    assert all(gone(pid) for pid in pids(said))


async def test_a_mesh_does_not_outlive_an_up_that_was_killed(tmp_path):
    config, _ = mesh_yaml(tmp_path)
    async with up("--config", config, "--simulated", "--json") as process:
        said = json.loads(await process.stdout.readline())
        process.kill()

        await eventually(lambda: all(gone(pid) for pid in pids(said)))


async def test_stopping_while_it_starts_leaves_nothing_behind(tmp_path):
    config, _ = mesh_yaml(tmp_path)
    logs = tmp_path / "logs"
    async with up("--config", config, "--simulated", "--logs", logs) as process:
        assert await process.stderr.readline() == b"expert-a: starting after 0 s\n"
        process.terminate()
        await process.communicate()

    assert process.returncode == 0
    assert not commands_naming(str(config))


async def test_a_block_of_code_can_run_a_mesh(tmp_path):
    config, address = mesh_yaml(tmp_path)
    async with running_mesh(config, simulated=True, traces=False, logs=tmp_path / "logs", env=ENV) as mesh:
        assert mesh.target == address
        async with AsyncClient(mesh.target) as client:
            answer = client.generate("7 × 8?", expert="coding", sampling={"max_new_tokens": 4})
            await answer.read()
        pids = [child.pid for child in mesh.children]

    assert answer.route.replica == "expert-b"
    assert all(gone(pid) for pid in pids)


async def test_a_mesh_that_speaks_tls_comes_up_too(tmp_path):
    server = {"certificate": str(PEM / "server.pem"), "key": str(PEM / "server.key")}
    trusted = {"authority": str(PEM / "authority.pem"), "server_name": "expert.test"}
    config, _ = mesh_yaml(tmp_path, tls=server, expert_tls=trusted)
    data = json.loads(config.read_text())
    data["experts"] = [expert | {"tls": server} for expert in data["experts"]]
    config.write_text(json.dumps(data))
    tls = ClientTls(authority=PEM / "authority.pem", server_name="expert.test")

    running = running_mesh(config, simulated=True, traces=False, logs=tmp_path, env=ENV, tls=tls)
    async with running as mesh, AsyncClient(mesh.target, tls=mesh.router.tls) as client:
        assert await client.generate("7 × 8?", sampling={"max_new_tokens": 4}).read()


async def test_a_mesh_that_cannot_be_read_is_not_run(tmp_path):
    with pytest.raises(Mistakes, match="No such file"):
        async with running_mesh(tmp_path / "mesh.yaml"):
            pass


async def test_the_demo_asks_shows_the_hops_and_stops(tmp_path):
    config, _ = mesh_yaml(tmp_path)
    code, stdout, stderr = await called("expertmesh_client.demo", "--config", config, "--simulated")
    _, data, _ = await called("expertmesh_client.demo", "--config", config, "--simulated", "--json")

    assert code == 0, stderr
    for hop in ("client ↔ router", "admit", "classify", "select", "router ↔ expert", "queue", "prefill", "decode"):
        assert f"\n  {hop} " in stdout
    assert stdout.count("→ ") >= 6
    told = json.loads(data)
    assert len({answer["domain"] for answer in told["answers"]}) >= 6
    assert all(answer["text"] and answer["expert"] for answer in told["answers"])
    assert sum(told["hops"].values()) > 0


async def test_a_child_that_ignores_sigterm_is_ended_with_all_that_it_started(tmp_path):
    stubborn = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""
    child = Child("stubborn", [sys.executable, "-c", stubborn], "127.0.0.1:1", tmp_path / "log", grace_s=0.1)
    await child.start(ENV)
    await eventually(lambda: len(child.tail()) == 2)
    inner = int(child.tail()[0] if child.tail()[0] != "up" else child.tail()[1])

    await child.stop()

    assert child.exit_code == -signal.SIGKILL
    assert child.reason.startswith("was ended by SIGKILL; its last words:")
    await eventually(lambda: gone(inner))


@pytest.mark.parametrize(
    ("listen", "address"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("mesh.example:1", "mesh.example:1")],
)
def test_a_server_that_listens_everywhere_is_reached_here(listen, address):
    assert reached(listen) == address
