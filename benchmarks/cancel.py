"""From a caller's cancel to the free slot, in every state that a request can be in.

One real engine, in this process, behind the expert's gRPC on a real socket. A slot is free when the request holds no
place in the expert any more and vLLM has been told to drop it; that vLLM's scheduler has dropped it is seen in its next
report, one engine step later, and given beside it. One other request decodes throughout, so that steps go on.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.prompts import prompt
from benchmarks.report import median, percentile, show
from expert_svc.opening import open_engine
from expert_svc.service import expert_server
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire import mesh_file
from mesh_wire.process import run
from mesh_wire.serving import open_channel
from mesh_wire.telemetry import Telemetry

SLOTS = 2
POLL_S = 0.0005
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]  # a pipe that fills at once


class Bench:
    def __init__(self, engine: Any, stub: Any, stalled_stub: Any) -> None:
        self.engine = engine
        self.stub = stub
        self.stalled_stub = stalled_stub

    @property
    def held(self) -> int:
        """Requests that the expert holds."""
        load = self.engine.board.latest
        return int(load.running + load.waiting)

    @property
    def scheduled(self) -> int:
        """Requests in the batch by vLLM's own last word."""
        return int(self.engine._meter._running)

    async def until(self, condition: Any, within_s: float = 20.0) -> float:
        """Wait for a condition; returns the seconds that it took."""
        began = time.perf_counter()
        while not condition():
            if time.perf_counter() - began > within_s:
                raise TimeoutError("a condition did not come")
            await asyncio.sleep(POLL_S)
        return time.perf_counter() - began

    def call(self, text: str, *, stub: Any = None, logprobs: int | None = None) -> Any:
        sampling = Sampling(temperature=0, ignore_eos=True, max_new_tokens=400, logprobs=logprobs)
        return (stub or self.stub).Generate(GenerateRequest(prompt=text, expert="general", sampling=sampling))

    @asynccontextmanager
    async def company(self, count: int) -> AsyncIterator[None]:
        """Other requests that decode meanwhile."""
        calls = [self.call(prompt(n)) for n in range(count)]
        try:
            for call in calls:
                await call.read()
            yield
        finally:
            for call in calls:
                call.cancel()
            await self.until(lambda: self.held == 0)

    async def queued(self) -> Any:
        call = self.call("one more")
        await self.until(lambda: self.engine.board.latest.waiting == 1)
        return call

    async def prefilling(self) -> Any:
        """A prompt of about 1,500 tokens; it is being read from the moment that it is held until its first token."""
        before = self.held
        call = self.call("Count these words. " + "seven red apples " * 480 + str(time.monotonic_ns()))
        await self.until(lambda: self.held == before + 1)
        await asyncio.sleep(0.02)
        return call

    async def decoding(self) -> Any:
        call = self.call("Tell me a story")
        for _ in range(3):
            await call.read()
        return call

    async def stalled(self) -> Any:
        """Nobody reads, and each token brings twenty log-probabilities: the pipe is full after a few."""
        call = self.call("Tell me a story", stub=self.stalled_stub, logprobs=20)
        await call.initial_metadata()
        await asyncio.sleep(1.0)
        return call


async def measure(config: Path, cancels: int) -> list[dict[str, Any]]:
    section = mesh_file.read(config).experts[0]
    arguments = {**(section.vllm or {}), "max_num_seqs": SLOTS, "enable_prefix_caching": False}
    section = section.model_copy(update={"listen": "127.0.0.1:0", "vllm": arguments})
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as life:
        print("the engine starts", file=sys.stderr)
        engine = await life.enter_async_context(open_engine(section))
        server = await life.enter_async_context(expert_server(engine, section, Telemetry.off()))
        target = f"127.0.0.1:{server.port}"
        channel = await life.enter_async_context(open_channel(target))
        import grpc

        narrow = await life.enter_async_context(grpc.aio.insecure_channel(target, options=SMALL_WINDOW))
        bench = Bench(engine, InferenceServiceStub(channel), InferenceServiceStub(narrow))
        for state, company in (("queued", SLOTS), ("prefilling", 1), ("decoding", 1), ("stalled", 1)):
            freed, dropped = [], []
            while len(freed) < cancels:
                async with bench.company(company):
                    for _ in range(min(5, cancels - len(freed))):
                        call = await getattr(bench, state)()
                        began = time.perf_counter()
                        call.cancel()
                        freed.append(await bench.until(lambda company=company: bench.held == company) * 1e3)
                        await bench.until(lambda company=company: bench.scheduled <= company)
                        dropped.append((time.perf_counter() - began) * 1e3)
            print(f"{state}: done", file=sys.stderr)
            rows.append(
                {
                    "state": state,
                    "cancels": len(freed),
                    "freed_p50_ms": median(freed),
                    "freed_p99_ms": percentile(freed, 0.99),
                    "dropped_by_scheduler_p50_ms": median(dropped),
                    "dropped_by_scheduler_p99_ms": percentile(dropped, 0.99),
                }
            )
    return rows


def command(
    config: Annotated[Path, typer.Option(help="Mesh file; its first expert process is measured.")] = Path("mesh.yaml"),
    cancels: Annotated[int, typer.Option(help="Cancels in each state.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how fast a caller that leaves gives its slot back."""
    found: list[dict[str, Any]] = []

    async def measuring() -> int:
        found.extend(await measure(config, cancels))
        return 0

    run(measuring())
    show(
        "from cancel to free slot",
        found,
        as_json=as_json,
        load=f"{cancels} cancels in each state, beside requests that decode; {SLOTS} slots",
    )


if __name__ == "__main__":
    typer.run(command)
