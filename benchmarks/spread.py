"""How evenly router workers spread requests over replicas: the most that any replica holds, over the mean of all.

    python -m benchmarks.spread [--workers 1,2,4] [--replicas 4] [--requests 200] [--seconds 6] [--json]

First as processes: a router of so many workers, simulated engines in this process, and as many requests at once, each
followed by another when it ends. `at once` is the ratio when all have just arrived together. Then in a model of time,
where the rules that were not taken can be compared, also for answers so short that load reports are old news.
"""

import asyncio
import json
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from benchmarks import report
from benchmarks.spread_model import RULES, Model
from expert_svc.service import expert_server
from expert_svc.simulated_engine import SimulatedEngine, open_simulated_engine
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire import process
from mesh_wire.settings import ExpertSection, Simulation
from mesh_wire.telemetry import Telemetry
from mesh_wire.wire_options import channel_options

STEP_S = 0.05
TOKENS = (5, 35)  # of an answer, which so takes 1 s on average
CONNECTIONS = 32
SAMPLE_EVERY_S = 0.01

app = typer.Typer(add_completion=False, rich_markup_mode=None)


async def as_processes(workers: int, replicas: int, requests: int, seconds: float) -> dict[str, Any]:
    """Measure a router of real worker processes."""
    async with AsyncExitStack() as life:
        simulation = Simulation(step_base_s=STEP_S)
        engines: list[SimulatedEngine] = []
        targets: list[str] = []
        for number in range(replicas):
            section = ExpertSection(
                name=f"expert-{number}", listen="127.0.0.1:0", serves={"general": None}, simulated=simulation
            )
            engines.append(await life.enter_async_context(open_simulated_engine(list(section.serves), simulation)))
            server = await life.enter_async_context(expert_server(engines[-1], section, Telemetry.off()))
            targets.append(f"127.0.0.1:{server.port}")
        target = await _router(life, workers, targets)
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await life.enter_async_context(grpc.aio.insecure_channel(target, options=options))
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        done = 0

        async def keep_asking(channel: grpc.aio.Channel) -> None:
            nonlocal done
            while True:
                sampling = Sampling(max_new_tokens=random.randint(*TOKENS))
                async for _ in InferenceServiceStub(channel).Generate(GenerateRequest(prompt="Go", sampling=sampling)):
                    pass
                done += 1

        asking = [asyncio.create_task(keep_asking(channels[n % CONNECTIONS])) for n in range(requests)]

        def ratio() -> float:
            return max(engine.held for engine in engines) * replicas / max(1, sum(engine.held for engine in engines))

        while sum(engine.held for engine in engines) < 0.98 * requests:  # noqa: ASYNC110  # engines have no event for it
            await asyncio.sleep(0.001)
        at_once = ratio()
        ratios = []
        for _ in range(int(seconds / SAMPLE_EVERY_S)):
            await asyncio.sleep(SAMPLE_EVERY_S)
            ratios.append(ratio())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return {
            "workers": workers,
            "requests_per_s": round(done / seconds),
            "at_once": at_once,
            "mean": sum(ratios) / len(ratios),
            "p99": report.percentile(ratios, 0.99),
        }


async def _router(life: AsyncExitStack, workers: int, targets: list[str]) -> str:
    """Start a router; returns where it serves."""
    folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
    section = {"listen": "127.0.0.1:0", "strategy": "round_robin", "targets": targets, "workers": workers}
    (folder / "mesh.yaml").write_text(json.dumps({"router": section}))
    router = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router_svc", "--config", str(folder / "mesh.yaml")), stderr=asyncio.subprocess.PIPE
    )
    life.push_async_callback(router.communicate)
    life.callback(router.terminate)
    assert router.stderr is not None
    port = 0
    for _ in range(workers):
        while b"the router serves on port" not in (line := await router.stderr.readline()):
            assert line, "the router has ended"
        port = int(line.split()[-1])
    return f"127.0.0.1:{port}"


def modelled(workers: list[int], replicas: int, requests: int) -> list[dict[str, Any]]:
    """Return mean and 99th percentile of each rule, for answers of a second and of a tenth."""
    rows = []
    for answer_s in (1.0, 0.1):
        for rule in RULES:
            row: dict[str, Any] = {"answer_s": answer_s, "rule": rule}
            for each in workers:
                model = Model(rule, workers=each, replicas=replicas, requests=requests, answer_s=answer_s, seed=1)
                ratios = list(model.ratios())
                row[f"mean_{each}"] = sum(ratios) / len(ratios)
                row[f"p99_{each}"] = report.percentile(ratios, 0.99)
            rows.append(row)
    return rows


@app.command()
def main(
    workers: Annotated[str, typer.Option(help="Numbers of router processes, with commas.")] = "1,2,4",
    replicas: Annotated[int, typer.Option(min=2)] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests under way at any time.")] = 200,
    seconds: Annotated[float, typer.Option(help="How long each number of workers is watched.")] = 6.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, per measurement.")
    ] = False,
) -> None:
    """Measure how evenly router workers spread requests over replicas."""
    numbers = [int(number) for number in workers.split(",")]

    async def measured() -> int:
        rows = [await as_processes(number, replicas, requests, seconds) for number in numbers]
        load = f"{requests} requests at once over {replicas} replicas, answers of {TOKENS} tokens, {STEP_S} s a token"
        report.show("spread over replicas, most / mean", rows, as_json=as_json, load=load)
        return 0

    process.run(measured())
    load = f"{requests} requests at once over {replicas} replicas, for 1, 2, … workers; rules: {RULES}"
    rows = modelled(numbers, replicas, requests)
    report.show("the same in a model, by rule", rows, as_json=as_json, load=load)


if __name__ == "__main__":
    app()
