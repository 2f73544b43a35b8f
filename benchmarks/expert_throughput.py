"""Tokens per second through an expert's gRPC, over tokens per second of `AsyncLLM` used directly.

One engine, in this process, as in an expert process. The direct figure is `AsyncLLM.generate` on the same event loop;
the gRPC figures have their caller in a process of its own, on the same cores. Rounds of the ways alternate.
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.engine_rounds import EXPERT, alternate, calling, directly, over, sampling, serve_orders
from benchmarks.prompts import prompt
from benchmarks.report import median, show
from expert_svc.opening import open_engine
from expert_svc.service import expert_server
from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, RouteChosen
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire import mesh_file
from mesh_wire.deadlines import Deadline
from mesh_wire.outlets import Tally
from mesh_wire.process import run
from mesh_wire.serving import open_channel
from mesh_wire.session_caller import SessionCaller
from mesh_wire.telemetry import Telemetry


class Counting:
    """An outlet that counts."""

    def __init__(self) -> None:
        self.tally = Tally()

    def route(self, chosen: RouteChosen) -> None:
        pass

    def delta(self, text: str, token_ids: Any, logprobs: Any = ()) -> None:
        self.tally.count(len(token_ids))

    def finished(self, finished: Finished) -> None:
        pass


async def call(target: str) -> int:
    """Be the calling process."""
    async with open_channel(target) as channel:
        session, stub = SessionCaller(channel), InferenceServiceStub(channel)

        async def one(number: int, rpc: str, tokens: int) -> int:
            outlet = Counting()
            request = GenerateRequest(prompt=prompt(number), sampling=sampling(tokens), expert=EXPERT)
            if rpc == "Session":
                await session.ask(request, outlet, Deadline())
            else:
                async for message in stub.Generate(request):
                    outlet.tally.count(len(message.delta.token_ids))
            return outlet.tally.tokens

        await serve_orders(one)
        await session.close()
    return 0


async def measure(config: Path, tokens: int, rounds: int, loads: list[int]) -> list[dict[str, Any]]:
    section = (
        mesh_file.read(config)
        .experts[0]
        .model_copy(update={"listen": "127.0.0.1:0", "max_in_flight": 1000, "max_wait_s": 1000.0})
    )
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as life:
        print("the engine starts", file=sys.stderr)
        engine = await life.enter_async_context(open_engine(section))
        server = await life.enter_async_context(expert_server(engine, section, Telemetry.off()))
        way = await life.enter_async_context(calling("benchmarks.expert_throughput", f"127.0.0.1:{server.port}"))
        ways = {"direct": directly(engine, tokens), **{rpc: way(rpc, tokens) for rpc in ("Session", "Generate")}}
        for concurrent in loads:
            seen = await alternate(ways, concurrent, rounds)
            rows.append(
                {
                    "concurrent": concurrent,
                    "direct_tokens_per_s": median(seen["direct"]),
                    "session_tokens_per_s": median(seen["Session"]),
                    "generate_tokens_per_s": median(seen["Generate"]),
                    "session_over_direct": over(seen, "Session", "direct"),
                    "generate_over_direct": over(seen, "Generate", "direct"),
                }
            )
    return rows


def command(
    config: Annotated[Path, typer.Option(help="Mesh file; its first expert process is measured.")] = Path("mesh.yaml"),
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each way.")] = 5,
    concurrent: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once; may be repeated. Otherwise 1, 8 and 32.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    call_target: Annotated[str, typer.Option("--call", hidden=True)] = "",
) -> None:
    """Measure an expert's gRPC against its engine used directly."""
    found: list[dict[str, Any]] = []

    async def measuring() -> int:
        found.extend(await measure(config, tokens, rounds, concurrent or [1, 8, 32]))
        return 0

    try:
        run(call(call_target) if call_target else measuring())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if call_target:
        return
    load = f"closed loop, {tokens} tokens per answer, greedy; medians of {rounds} alternating rounds, ratios by round"
    show("tokens per second through an expert's gRPC, and directly", found, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
