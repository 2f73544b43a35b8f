"""`expertmesh up` as a user runs it: a mesh file, and the process."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

ENV = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "EXPERT", "ROUTER_"))}


def mesh_yaml(folder: Path, **router: Any) -> tuple[Path, str]:
    """Write a mesh of two expert processes on free ports; returns the file and the router's address."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        addresses = [f"127.0.0.1:{taken.getsockname()[1]}" for taken in sockets]
    experts = [
        {"name": "expert-a", "listen": addresses[1], "serves": {"general": None, "math": None}},
        {"name": "expert-b", "listen": addresses[2], "serves": {"coding": None}},
    ]
    data = {
        "router": {"listen": addresses[0], "strategy": "round_robin"} | router,
        "experts": [expert | {"vllm": {"model": "nobody/nothing"}} for expert in experts],
    }
    path = folder / "mesh.yaml"
    path.write_text(json.dumps(data))  # JSON is YAML
    return path, addresses[0]


@asynccontextmanager
async def up(*args: object, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `expertmesh up` until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "expertmesh_client", "up", *map(str, args)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENV | more,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
