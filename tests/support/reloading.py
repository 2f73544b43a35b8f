"""A router that watches its mesh file, in tests."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertmesh.v1.generation_pb2 import RouteChosen
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2 import RouteRequest
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire.serving import open_channel
from mesh_wire.telemetry import Telemetry
from router_svc.reloading.source import Source
from router_svc.service import router_server
from support.asking import greedy
from support.mesh import ANYWHERE, RunningRouter
from support.waiting import eventually


@dataclass
class Watched:
    """A router, its mesh file, and what it says."""

    router: RunningRouter
    config: Path
    section: dict[str, Any] = field(default_factory=dict)

    def write(self, **fields: Any) -> None:
        """Change fields of the file's router; None leaves one out."""
        self.section = {name: value for name, value in {**self.section, **fields}.items() if value is not None}
        write_mesh(self.config, self.section)

    async def route(self, prompt: str = "hello", expert: str = "") -> RouteChosen:
        request = greedy(prompt)
        request.expert = expert
        return (await self.router.routing.Route(RouteRequest(request=request))).route

    async def becomes(self, generation: int) -> None:
        """Wait until a generation is served."""

        async def it_is() -> bool:
            return (await self.router.fleet()).generation == generation

        await eventually(it_is)

    async def is_refused(self, words: str = "") -> str:
        """Wait until the files, as they are, are not taken; returns why."""

        async def it_is() -> bool:
            return any(words in line for line in (await self.router.fleet()).not_taken)

        await eventually(it_is)
        return "\n".join((await self.router.fleet()).not_taken)

    async def is_well(self) -> None:
        """Wait until nothing is refused."""

        async def it_is() -> bool:
            return not (await self.router.fleet()).not_taken

        await eventually(it_is)


def write_mesh(config: Path, section: dict[str, Any]) -> None:
    """Write a mesh file of a router alone, at once: a reader sees the old one or the new one."""
    beside = config.with_suffix(".new")
    beside.write_text(json.dumps({"router": section}, indent=1))  # JSON is YAML
    beside.replace(config)


@asynccontextmanager
async def watched_router(
    folder: Path, *targets: str, telemetry: Telemetry | None = None, **section: Any
) -> AsyncIterator[Watched]:
    """Serve a router by a mesh file in a folder; `section` are the fields of its router."""
    config = folder / "mesh.yaml"
    fields = {"listen": ANYWHERE, "strategy": "round_robin", "drain_grace_s": 5, "targets": targets, **section}
    write_mesh(config, fields)
    source = Source.read(config, {})
    async with (
        router_server(source.mesh, telemetry or Telemetry.off(), source) as server,
        open_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        router = RunningRouter(
            server=server,
            channel=channel,
            port=server.port,
            inference=InferenceServiceStub(channel),
            routing=RouterServiceStub(channel),
        )
        yield Watched(router, config, fields)
