"""What the router adds to the time to first token: asked through it, and at the expert directly, in turn.

Starts the mesh of a mesh file as processes, as `expertmesh up` does. The expert is pinned, so that both ways have the
same replica answer the same prompt; a second pass lets the router classify. Simulated experts show the hop alone; real
ones show it in place, within their own noise.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.prompts import prompt
from benchmarks.report import median, percentile, show
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh_client.running import running_mesh
from mesh_wire import mesh_file
from mesh_wire.process import run
from mesh_wire.serving import open_channel


async def first_token_ms(stub: InferenceServiceStub, number: int, expert: str) -> float:
    """Ask one prompt for two tokens; return milliseconds to the first."""
    request = GenerateRequest(
        prompt=prompt(number), expert=expert, sampling=Sampling(temperature=0, max_new_tokens=2, ignore_eos=True)
    )
    began = time.perf_counter()
    first = None
    async for message in stub.Generate(request):
        if first is None and message.HasField("delta"):
            first = time.perf_counter() - began
    assert first is not None
    return first * 1e3


async def measure(config: Path, simulated: bool, samples: int) -> list[dict[str, Any]]:
    mesh = mesh_file.read(config, simulated=simulated)
    rows: list[dict[str, Any]] = []
    async with (
        running_mesh(config, simulated=simulated),
        open_channel(mesh.router.listen) as router,
        open_channel(mesh.experts[0].listen) as expert,
    ):
        ways = {
            "direct": (InferenceServiceStub(expert), "general"),
            "routed, pinned": (InferenceServiceStub(router), "general"),
            "routed, classified": (InferenceServiceStub(router), ""),
        }
        for concurrent in (1, 8):
            seen: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(-5, samples // concurrent):
                for way, (stub, name) in ways.items():
                    batch = [first_token_ms(stub, 4 * (number * concurrent + k) + 3, name) for k in range(concurrent)]
                    answered = await asyncio.gather(*batch)
                    if number >= 0:
                        seen[way] += answered
            for way, values in seen.items():
                rows.append(
                    {
                        "concurrent": concurrent,
                        "way": way,
                        "p50_ms": median(values),
                        "p99_ms": percentile(values, 0.99),
                        "added_p50_ms": median(values) - median(seen["direct"]),
                        "added_p99_ms": percentile(values, 0.99) - percentile(seen["direct"], 0.99),
                    }
                )
    return rows


def command(
    config: Annotated[Path, typer.Option(help="Mesh file.")] = Path("mesh.yaml"),
    simulated: Annotated[bool, typer.Option("--simulated", help="Simulated experts in place of real ones.")] = False,
    samples: Annotated[int, typer.Option(help="Requests per way and concurrency.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the time to first token that the router adds."""
    found: list[dict[str, Any]] = []

    async def measuring() -> int:
        found.extend(await measure(config, simulated, samples))
        return 0

    run(measuring())
    engine = "simulated engines, as fast as the machine" if simulated else "real engines"
    load = f"{engine}; {samples} requests per way and concurrency, the ways in turn; two tokens per answer"
    show("time to first token, through the router and directly", found, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
