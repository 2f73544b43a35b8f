"""A configuration's mesh: its file, and its processes for as long as a block runs."""

import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.characterise.configurations import PLENTY, Configuration
from benchmarks.characterise.profile import load
from expertmesh_client.running import RunningMesh, running_mesh

OTHERS = ("OTEL_", "ROUTER_", "EXPERT_", "EXPERTMESH_")  # settings of whoever starts us, which are not measured here


def mesh_file(configuration: Configuration) -> dict[str, Any]:
    """Return the content of a configuration's `mesh.yaml`, on ports that are free now."""
    with ExitStack() as held:
        taken = [
            held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(len(configuration.engines) + 1)
        ]
        router, *ports = [each.getsockname()[1] for each in taken]
    experts = []
    for engine, port in zip(configuration.engines, ports, strict=True):
        section: dict[str, Any] = {"name": engine.name, "listen": f"127.0.0.1:{port}", "serves": dict(engine.serves)}
        if engine.profile:
            simulation = load(engine.profile).simulation.model_copy(update={"speed": configuration.speed})
            section["simulated"] = simulation.model_dump(mode="json", exclude_defaults=True)
        else:
            section |= {"vllm": dict(engine.vllm), "environment": dict(engine.environment)}
        experts.append(section | {"max_in_flight": PLENTY, "max_wait_s": PLENTY, "drain_grace_s": 0})
    return {
        "router": {
            "listen": f"127.0.0.1:{router}",
            "generalist": "general",
            "max_in_flight": PLENTY,
            "admission": {"max_wait_s": PLENTY},
            "drain_grace_s": 0,
            **configuration.router,
        },
        "experts": experts,
    }


def environment(configuration: Configuration, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a mesh's processes: what is measured depends on nobody's settings."""
    kept = {name: value for name, value in ours.items() if not name.startswith(OTHERS)}
    return {**kept, "OTEL_SDK_DISABLED": "true", **configuration.environment}


@asynccontextmanager
async def mesh_of(configuration: Configuration, folder: Path) -> AsyncIterator[RunningMesh]:
    """Run a configuration's mesh until the block ends; its file and logs are in `folder`.

    Raises:
        Mistakes, ChildFailed: as `running_mesh` does.
    """
    path = folder / "mesh.yaml"
    path.write_text(json.dumps(mesh_file(configuration), indent=1), encoding="utf-8")  # which is YAML
    env = environment(configuration)
    async with running_mesh(path, traces=False, logs=folder, env=env, start_within_s=900) as mesh:
        yield mesh
