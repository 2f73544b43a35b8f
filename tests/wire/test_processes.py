"""`python -m expert_svc` and `python -m router_svc`: start, signals, exit codes, last words."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.serving import NOT_SERVING, SERVING, open_channel
from router_svc.strategies.artefact import save
from support.asking import greedy
from support.calls import failure
from support.corpora import small_artefact
from support.waiting import eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mesh:
    """A mesh file, and ports that were free when it was made."""

    def __init__(self, folder: Path, simulated: dict[str, Any] | None = None, **router: Any) -> None:
        self.file = folder / "mesh.yaml"
        self.router, self.expert = (f"127.0.0.1:{free_port()}" for _ in range(2))
        expert = {"name": "a", "listen": self.expert, "serves": {"general": None}, "simulated": simulated or {}}
        section = {"listen": self.router, "strategy": "round_robin", **router}
        self.file.write_text(json.dumps({"router": section, "experts": [expert]}), encoding="utf-8")

    @asynccontextmanager
    async def running(self, module: str) -> AsyncIterator[Process]:
        command = [sys.executable, "-m", module, "--config", str(self.file)]
        process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def last_words(process: Process) -> tuple[int | None, list[str]]:
    """The exit code, and the errors told on standard error."""
    _, told = await process.communicate()
    lines = told.decode().splitlines()
    assert "Traceback" not in told.decode(), told.decode()
    return process.returncode, [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


async def until(channel: grpc.aio.Channel, status: int) -> None:
    async def it_is() -> bool:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == status)

    await eventually(it_is)


@pytest.fixture
def slow(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, {"step_base_s": 0.02})


async def test_an_expert_that_is_told_to_stop_drains_and_exits_with_0(slow: Mesh) -> None:
    async with slow.running("expert_svc") as process, open_channel(slow.expert) as channel:
        await until(channel, SERVING)
        call = InferenceServiceStub(channel).Generate(greedy(max_new_tokens=40, ignore_eos=True))
        await call.read()

        process.send_signal(signal.SIGTERM)

        await until(channel, NOT_SERVING)
        text = ""
        while (event := await call.read()) is not grpc.aio.EOF:
            text += event.delta.text
        assert len(text.split()) >= 38
        assert await last_words(process) == (0, [])


async def test_an_expert_whose_engine_dies_ends_its_calls_and_exits_with_1(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, {"step_base_s": 0.01, "dies_after_tokens": 20})
    async with mesh.running("expert_svc") as process, open_channel(mesh.expert) as channel:
        await until(channel, SERVING)

        error = await failure(InferenceServiceStub(channel).Generate(greedy(max_new_tokens=500)))

        assert error.reason == "ENGINE_DEAD"
        code, told = await last_words(process)
        assert (code, len(told)) == (1, 1)
        assert told[0].startswith("a: the engine died: ")


async def test_a_router_and_an_expert_answer_as_processes(slow: Mesh) -> None:
    async with (
        slow.running("expert_svc"),
        open_channel(slow.expert) as there,
    ):
        await until(there, SERVING)
        async with slow.running("router_svc") as router, open_channel(slow.router) as channel:
            await until(channel, SERVING)
            call = InferenceServiceStub(channel).Generate(greedy())
            await call.read()
            router.send_signal(signal.SIGINT)
            while await call.read() is not grpc.aio.EOF:
                pass
            assert await last_words(router) == (0, [])


@pytest.mark.parametrize("module", ["expert_svc", "router_svc"])
async def test_a_file_with_mistakes_is_told_line_by_line(tmp_path: Path, module: str) -> None:
    mesh = Mesh(tmp_path, colour="red", strategy="fastest")
    async with mesh.running(module) as process:
        code, told = await last_words(process)

    assert code == 2
    assert sorted(line.split(": ")[1] for line in told) == ["router.colour", "router.strategy"]


@pytest.mark.parametrize("module", ["expert_svc", "router_svc"])
async def test_a_port_in_use_is_told(tmp_path: Path, module: str) -> None:
    mesh = Mesh(tmp_path)
    with socket.socket() as busy:
        host, _, port = (mesh.expert if module == "expert_svc" else mesh.router).partition(":")
        busy.bind((host, int(port)))
        busy.listen(1)
        async with mesh.running(module) as process:
            code, [told] = await last_words(process)

    assert code == 2
    assert f"cannot listen on {host}:{port}: Address already in use" in told


async def test_a_router_with_a_bad_artefact_says_so_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    save(folder, small_artefact())
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    mesh = Mesh(tmp_path, strategy="clusters", artefact="artefact")
    async with mesh.running("router_svc") as process:
        code, told = await last_words(process)

    assert (code, len(told)) == (2, 1)
    assert str(folder) in told[0]
