"""Memory of a router that routes, import time of the client, time of `--help`."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.prompts import prompt
from benchmarks.report import median, show
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh_client.running import running_mesh
from mesh_wire import mesh_file
from mesh_wire.process import run
from mesh_wire.serving import open_channel

CLIENT = "from expertmesh_client import Client"


def seconds_of(*arguments: str, runs: int = 5) -> float:
    """Return the median wall time of a Python process with these arguments."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        took.append(time.perf_counter() - began)
    return median(took)


def router_memory_mib() -> float:
    """Return the resident memory of the router process that this one started."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and b"\0router_svc\0" in (folder / "cmdline").read_bytes():
                lines = (folder / "status").read_text().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
        except OSError:  # it ended meanwhile
            continue
    raise RuntimeError("no router runs")


async def measure_router(config: Path, requests: int) -> float:
    mesh = mesh_file.read(config, simulated=True)
    async with running_mesh(config, simulated=True), open_channel(mesh.router.listen) as channel:
        stub = InferenceServiceStub(channel)

        async def one(number: int) -> None:
            async for _ in stub.Generate(GenerateRequest(prompt=prompt(number), sampling=Sampling(max_new_tokens=32))):
                pass

        for start in range(0, requests, 50):
            await asyncio.gather(*(one(start + number) for number in range(50)))
        return router_memory_mib()


def command(
    config: Annotated[Path, typer.Option(help="Mesh file.")] = Path("mesh.yaml"),
    requests: Annotated[int, typer.Option(help="Requests, 50 at a time, before memory is read.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what the parts weigh."""
    memory: list[float] = []

    async def measuring() -> int:
        memory.append(await measure_router(config, requests))
        return 0

    run(measuring())
    bare = seconds_of("-c", "pass")
    rows: list[dict[str, Any]] = [
        {"what": f"router's resident memory after {requests} requests, MiB", "figure": memory[0]},
        {"what": "from expertmesh_client import Client, s", "figure": seconds_of("-c", CLIENT) - bare},
        {"what": "expertmesh --help, s", "figure": seconds_of("-m", "expertmesh_client", "--help")},
        {"what": "python -c pass, s", "figure": bare},
    ]
    show("footprint", rows, as_json=as_json, load="simulated experts; times are medians of 5 processes")


if __name__ == "__main__":
    typer.run(command)
