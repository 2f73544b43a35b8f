"""A router of several processes, in tests."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil

from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.wire_options import channel_options
from support.waiting import eventually

ENV = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "EXPERT", "ROUTER_"))}


class Supervised:
    """A process that supervises others, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def workers(self) -> dict[int, int]:
        """The process of each worker, by number; of one that was started again, the newest."""
        return {int(number): int(pid) for number, pid in re.findall(r"worker (\d+) is process (\d+)", self.said)}

    def count(self, words: str) -> int:
        """How many lines have these words in them."""
        return sum(words in line for line in self.said.splitlines())

    @property
    def target(self) -> str:
        found = re.search(r"the router serves on port (\d+)", self.said)
        assert found
        return f"127.0.0.1:{found[1]}"

    async def serve(self, times: int) -> None:
        """Wait until workers have come up so many times in all."""
        await eventually(lambda: self.count("the router serves on port") == times)


@asynccontextmanager
async def supervised(folder: Path, *command: str, **env: str) -> AsyncIterator[Supervised]:
    """Run Python with these arguments, in a process group of its own, which ends with the block."""
    log = folder / "log"
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=written, stderr=written, env=ENV | env, start_new_session=True
        )
    try:
        yield Supervised(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def running_workers(
    folder: Path, *targets: str, workers: int = 2, env: Mapping[str, str] = ENV, **more: Any
) -> AsyncIterator[Supervised]:
    """Run a router of several workers, all of which serve when the block begins; `more` are fields of its section."""
    section: dict[str, Any] = {"listen": "127.0.0.1:0", "strategy": "round_robin", "drain_grace_s": 30, **more}
    config = folder / "mesh.yaml"
    config.write_text(json.dumps({"router": section | {"targets": targets, "workers": workers}}))  # JSON is YAML
    async with supervised(folder, "-m", "router_svc", "--config", str(config), **env) as router:
        await router.serve(workers)
        yield router


class Callers:
    """Channels to one address, each with a connection of its own, which the kernel gives to a worker."""

    def __init__(self, life: AsyncExitStack) -> None:
        self._life = life

    async def channel(self, target: str) -> grpc.aio.Channel:
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        return await self._life.enter_async_context(grpc.aio.insecure_channel(target, options=options))

    async def inference(self, target: str, count: int) -> list[InferenceServiceStub]:
        return [InferenceServiceStub(await self.channel(target)) for _ in range(count)]


@asynccontextmanager
async def callers() -> AsyncIterator[Callers]:
    """Connections that end with the block."""
    async with AsyncExitStack() as life:
        yield Callers(life)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has buried yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listens(pid: int) -> bool:
    """Whether a process takes connections."""
    return any(one.status == psutil.CONN_LISTEN for one in psutil.Process(pid).net_connections("tcp"))


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
