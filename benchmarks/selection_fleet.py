"""The fleet and the routers of `benchmarks.selection_load`, as processes."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from expertmesh_client.child import Child
from expertmesh_client.readiness import experts_found, serving_at
from mesh_wire.settings import Simulation

EXPERTS = ("general", "math", "coding", "health")
REPLICAS = 2
TWIN = "int8"
PROFILE = Simulation(
    prefill_tokens_per_s=4000, step_base_s=0.04, step_per_sequence_s=0.002, slots=8, kv_capacity_tokens=100_000
)
PLENTY = 20_000  # requests let in: what is too much waits, and is not refused
NEVER_MS = 1e9
START_WITHIN_S = 300.0  # real engines on a busy machine
GRACE_S = 5.0
READY_S = 0.3


def ways(strategy: str, artefact: Path | None, spill_ms: float, floor: float, sibling_ms: float) -> dict[str, Any]:
    """Return the router's settings for each way of selecting: the one place that knows what they are called."""
    content = {"strategy": strategy, "affinity_ms": 0, "spill_ms_per_point": None, "sibling_ms": NEVER_MS}
    if artefact is not None:
        content["artefact"] = str(artefact.resolve())
    spill = {**content, "spill_ms_per_point": spill_ms, "quality_floor": floor}
    load_only = {"strategy": "round_robin", "affinity_ms": 0, "sibling_ms": NEVER_MS}
    return {
        "content": content,
        "spill": spill,
        "spill + sibling": {**spill, "sibling_ms": sibling_ms},
        "load only": load_only | {"spill_ms_per_point": 0, "quality_floor": 0},
    }


def engines(twins: int) -> list[dict[str, Any]]:
    """Return the experts' sections: each engine is one expert's, and has twins of so many of the others."""
    sections = []
    for at, expert in enumerate(EXPERTS):
        others = [EXPERTS[(at + step) % len(EXPERTS)] for step in range(1, twins + 1)]
        sections += [
            {
                "name": f"{expert}-{replica}",
                "listen": f"127.0.0.1:{free_port()}",
                "serves": {expert: None},
                "variants": dict.fromkeys(others, TWIN),
                "simulated": PROFILE.model_dump(exclude_defaults=True),
                "max_in_flight": PLENTY,
                "max_wait_s": PLENTY,
                "drain_grace_s": 0,
            }
            for replica in range(REPLICAS)
        ]
    return sections


def real_engines(mesh: Path) -> list[dict[str, Any]]:
    """Return the experts' sections of a mesh file, on ports of their own: real engines, if it names such."""
    sections: list[dict[str, Any]] = yaml.safe_load(mesh.read_text(encoding="utf-8"))["experts"]
    there = mesh.resolve().parent
    for section in sections:
        section |= {"listen": f"127.0.0.1:{free_port()}", "drain_grace_s": 0}
        section |= {"max_in_flight": PLENTY, "max_wait_s": PLENTY}
        section["serves"] = {name: adapter and str(there / adapter) for name, adapter in section["serves"].items()}
        section["vllm"] = section["vllm"] | {"model": str(there / section["vllm"]["model"])}
    return sections


@asynccontextmanager
async def fleet_of(sections: Sequence[Mapping[str, Any]], folder: Path) -> AsyncIterator[None]:
    """Run the experts' processes."""
    config = written(folder / "fleet.yaml", {"router": {"strategy": "round_robin"}, "experts": sections})
    async with AsyncExitStack() as life:
        children = [_child(folder, config, "expert_svc", section["name"], section["listen"]) for section in sections]
        for child in children:
            await life.enter_async_context(_running(child))
        for child in children:
            await _ready(child, serving_at(child.address))
        yield


@asynccontextmanager
async def router_of(
    name: str, settings: Mapping[str, Any], sections: Sequence[Mapping[str, Any]], folder: Path
) -> AsyncIterator[str]:
    """Run a router before the fleet. Yields where it listens, once it has found every expert."""
    router = {
        "listen": f"127.0.0.1:{free_port()}",
        "generalist": EXPERTS[0],
        "max_in_flight": PLENTY,
        "admission": {"max_wait_s": PLENTY},
        "drain_grace_s": 0,
        **settings,
    }
    config = written(folder / f"{name.replace(' ', '')}.yaml", {"router": router, "experts": sections})
    async with _running(_child(folder, config, "router_svc", "", router["listen"])) as child:
        await _ready(child, serving_at(child.address))
        await _ready(child, experts_found(child.address, EXPERTS))
        await asyncio.sleep(READY_S)  # for the first load reports
        yield child.address


def _child(folder: Path, config: Path, module: str, name: str, address: str) -> Child:
    command = [sys.executable, "-m", module, "--config", str(config), *(["--name", name] if name else [])]
    log = folder / f"{name or config.stem}.log"
    return Child(name=name or "router", command=command, address=address, log=log, grace_s=GRACE_S)


@asynccontextmanager
async def _running(child: Child) -> AsyncIterator[Child]:
    await child.start({**os.environ, "EXPERTMESH_PARENT": str(os.getpid()), "OTEL_SDK_DISABLED": "true"})
    try:
        yield child
    finally:
        await child.stop()


async def _ready(child: Child, until: Coroutine[Any, Any, None]) -> None:
    """Wait for a process, and not for one that has ended."""
    waiting, ending = asyncio.create_task(until), asyncio.create_task(child.ended())
    try:
        await asyncio.wait({waiting, ending}, timeout=START_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RuntimeError(f"{child.name} is not ready: {child.reason if ending.done() else child.last_words}")
        waiting.result()
    finally:
        waiting.cancel()
        ending.cancel()
        await asyncio.gather(waiting, ending, return_exceptions=True)


def written(path: Path, mesh: Mapping[str, Any]) -> Path:
    """Write a mesh file, at once: who watches it reads the old one or the new one."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(mesh), encoding="utf-8")  # which is YAML
    return beside.replace(path)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def simulated_engines(many: int, profile: Simulation) -> list[dict[str, Any]]:
    """Return the sections of engines that serve every expert each."""
    return [
        {
            "name": f"engine-{number}",
            "listen": f"127.0.0.1:{free_port()}",
            "serves": dict.fromkeys(EXPERTS),
            "simulated": profile.model_dump(exclude_defaults=True),
            "drain_grace_s": 0,
        }
        for number in range(many)
    ]
