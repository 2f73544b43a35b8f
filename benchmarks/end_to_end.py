"""Tokens per second through client, router and expert, over tokens per second of `AsyncLLM` used directly.

One real engine, in this process, behind the expert's gRPC; a router process before it; `expertmesh_client` in a third
process, over its session, by `Generate`, and around the router. Rounds alternate with the engine used directly on the
event loop that serves. All share the machine's cores with the engine, so what the mesh costs, the engine lacks: a
machine that does anything else meanwhile shows that instead. Requests name their expert.
"""

import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.data_plane.host import Child, free_port, python
from benchmarks.engine_rounds import EXPERT, alternate, calling, directly, over, sampling, serve_orders
from benchmarks.prompts import prompt
from benchmarks.report import median, show
from expert_svc.opening import open_engine
from expert_svc.service import expert_server
from expertmesh_client import AsyncClient
from mesh_wire import mesh_file
from mesh_wire.process import run
from mesh_wire.telemetry import Telemetry

WAYS = ("session", "generate", "around")
DIRECT = "AsyncLLM"


async def call(target: str) -> int:
    """Be the calling process."""
    async with AsyncExitStack() as life:
        clients = {
            "session": await life.enter_async_context(AsyncClient(target)),
            "generate": await life.enter_async_context(AsyncClient(target, over="generate")),
            "around": await life.enter_async_context(AsyncClient(target, direct=True)),
        }

        async def one(number: int, way: str, tokens: int) -> int:
            answer = clients[way].generate(prompt(number), expert=EXPERT, sampling=sampling(tokens))
            await answer.read()
            assert answer.finished is not None, "read to its end"
            return answer.finished.usage.completion_tokens

        await serve_orders(one)
    return 0


async def measure(config: Path, tokens: int, rounds: int, loads: list[int]) -> list[dict[str, Any]]:
    section = (
        mesh_file.read(config)
        .experts[0]
        .model_copy(update={"listen": "127.0.0.1:0", "max_in_flight": 1000, "max_wait_s": 1000.0})
    )
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        print("the engine starts", file=sys.stderr)
        engine = await life.enter_async_context(open_engine(section))
        server = await life.enter_async_context(expert_server(engine, section, Telemetry.off()))
        port, file = free_port(), folder / "mesh.json"
        targets = [f"127.0.0.1:{server.port}"]
        patient = {"max_wait_s": 1000.0}  # all come at once, and none is to be refused
        router = {
            "listen": f"127.0.0.1:{port}",
            "strategy": "round_robin",
            "targets": targets,
            "admission": patient,
        }
        file.write_text(json.dumps({"router": router}), encoding="utf-8")  # JSON is YAML
        child = Child(python("router_svc", "--config", str(file)), None, folder / "router.log")
        life.callback(child.kill)
        await child.listening(port)
        way = await life.enter_async_context(calling("benchmarks.end_to_end", f"127.0.0.1:{port}"))
        ways = {DIRECT: directly(engine, tokens), **{name: way(name, tokens) for name in WAYS}}
        for concurrent in loads:
            cpu_s = child.cpu_s()
            seen = await alternate(ways, concurrent, rounds)
            row: dict[str, Any] = {"concurrent": concurrent, "asyncllm_tokens_per_s": median(seen[DIRECT])}
            for name in WAYS:
                row |= {f"{name}_tokens_per_s": median(seen[name]), f"{name}_share": over(seen, name, DIRECT)}
            rows.append(row | {"router_cpu_s": child.cpu_s() - cpu_s})
    return rows


def command(
    config: Annotated[Path, typer.Option(help="Mesh file; its first expert process is measured.")] = Path("mesh.yaml"),
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each way.")] = 5,
    concurrent: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once; may be repeated. Otherwise 64.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    call_target: Annotated[str, typer.Option("--call", hidden=True)] = "",
) -> None:
    """Measure client, router and expert against the engine used directly."""
    found: list[dict[str, Any]] = []

    async def measuring() -> int:
        found.extend(await measure(config, tokens, rounds, concurrent or [64]))
        return 0

    try:
        run(call(call_target) if call_target else measuring())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if call_target:
        return
    load = (
        f"closed loop, {tokens} tokens per answer, greedy; medians of {rounds} alternating rounds, shares by round;"
        " all processes on all cores"
    )
    show("tokens per second through the whole mesh, and directly", found, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
