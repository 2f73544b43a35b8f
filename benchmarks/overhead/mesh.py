"""The processes that are measured: a router, an expert with a simulated engine, and what they use."""

import asyncio
import ctypes
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh_client.child import Child
from expertmesh_client.readiness import experts_found, serving_at

ROOT = Path(__file__).resolve().parents[2]
EXPERTS = ("general", "math", "coding", "health")
START_WITHIN_S = 60.0
STOP_WITHIN_S = 5.0
_LIBC = ctypes.CDLL(None)


class NotUp(Exception):
    """A process of the mesh did not start."""


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used so far, threads that are gone included, to the nanosecond."""
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(f"no process {pid}")
    return time.clock_gettime(clock.value)


@dataclass(frozen=True)
class Processes:
    """A router and the expert behind it."""

    expert: Child
    router: Child

    def used_s(self) -> dict[str, float]:
        """Return the CPU that each has used so far, in seconds."""
        return {child.name: cpu_s(child.pid) for child in (self.expert, self.router)}


@asynccontextmanager
async def running(folder: Path, simulation: Mapping[str, Any], plants: Mapping[str, float]) -> AsyncIterator[Processes]:
    """Run an expert with a simulated engine and a router before it, from when they serve until the block ends.

    Args:
        folder: where their files go.
        simulation: fields of `mesh_wire.settings.Simulation`.
        plants: a share by which a hop, `router` or `expert`, is slowed down.

    Raises:
        NotUp: one of them ended, or did not serve in time.
    """
    config = folder / "mesh.yaml"
    ports = {name: _free_port() for name in ("expert", "router")}
    config.write_text(json.dumps(_mesh(ports, simulation)), encoding="utf-8")  # JSON is YAML
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ROUTER_", "EXPERT"))}
    paths = os.pathsep.join(str(ROOT / path) for path in ("protos", "client", "."))
    ours = {**kept, "PYTHONPATH": paths, "EXPERTMESH_PARENT": str(os.getpid()), "EXPERTMESH_LOG": "WARNING"}
    children = {
        name: Child(
            name=name,
            command=_command(name, plants.get(name, 0.0), config),
            address=f"127.0.0.1:{port}",
            log=folder / f"{name}.log",
            grace_s=STOP_WITHIN_S,
        )
        for name, port in ports.items()
    }
    async with AsyncExitStack() as life:
        for child in children.values():
            life.push_async_callback(child.stop)
            await child.start(ours)
        await _serving(children)
        yield Processes(**children)


async def _serving(children: Mapping[str, Child]) -> None:
    ended = [asyncio.create_task(child.ended()) for child in children.values()]
    up = asyncio.create_task(_up(children))
    try:
        await asyncio.wait([up, *ended], timeout=START_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            why = "; ".join(f"{name}: {child.last_words or 'no words'}" for name, child in children.items())
            raise NotUp(f"the mesh does not serve: {why}")
        await up
    finally:
        for task in (up, *ended):
            task.cancel()
        await asyncio.gather(up, *ended, return_exceptions=True)


async def _up(children: Mapping[str, Child]) -> None:
    for child in children.values():
        await serving_at(child.address)
    await experts_found(children["router"].address, EXPERTS)


def _command(name: str, plant: float, config: Path) -> list[str]:
    planted = ["benchmarks.overhead.slowed", f"{plant:g}"] if plant else []
    return [sys.executable, "-m", *planted, f"{name}_svc", "--config", str(config)]


def _mesh(ports: Mapping[str, int], simulation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "router": {
            "listen": f"127.0.0.1:{ports['router']}",
            "strategy": "lexical",
            "artefact": str(ROOT / "models" / "router" / "lexical"),
        },
        "experts": [
            {
                "name": "expert",
                "listen": f"127.0.0.1:{ports['expert']}",
                "serves": dict.fromkeys(EXPERTS),
                "simulated": dict(simulation),
            }
        ],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
