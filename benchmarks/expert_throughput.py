"""Tokens per second through an expert's gRPC, over tokens per second of `AsyncLLM` used directly.

One engine, in this process, as in an expert process. The direct figure is `AsyncLLM.generate` on the same event loop;
the gRPC figure has its caller in a process of its own, on the same cores. Rounds of the two alternate.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.prompts import prompt
from benchmarks.report import median, show
from expert_svc.opening import open_engine
from expert_svc.service import expert_server
from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, RouteChosen, Sampling
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


def request(number: int, tokens: int) -> GenerateRequest:
    sampling = Sampling(temperature=0, max_new_tokens=tokens, ignore_eos=True)
    return GenerateRequest(prompt=prompt(number), sampling=sampling, expert="general")


async def call(target: str) -> None:
    """The calling process: for each line `rpc concurrent requests tokens` on standard input, one timed round."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with open_channel(target) as channel:
        session, stub = SessionCaller(channel, Telemetry.off()), InferenceServiceStub(channel)

        async def one(number: int, rpc: str, tokens: int) -> int:
            outlet = Counting()
            if rpc == "Session":
                await session.ask(request(number, tokens), outlet, Deadline())
            else:
                async for message in stub.Generate(request(number, tokens)):
                    outlet.tally.count(len(message.delta.token_ids))
            return outlet.tally.tokens

        while line := await lines.readline():
            rpc, *figures = line.decode().split()
            concurrent, requests, tokens = map(int, figures)
            began = time.monotonic()
            total = await in_turn(lambda number, rpc=rpc, tokens=tokens: one(number, rpc, tokens), concurrent, requests)
            print(json.dumps(total / (time.monotonic() - began)), flush=True)
        await session.close()


async def in_turn(one: Any, concurrent: int, requests: int) -> int:
    """Make `requests` calls, `concurrent` at a time; returns the tokens of all."""
    numbers = iter(range(requests))

    async def worker() -> int:
        return sum([await one(number) for number in numbers])

    return sum(await asyncio.gather(*(worker() for _ in range(concurrent))))


async def measure(config: Path, tokens: int, rounds: int) -> list[dict[str, Any]]:
    mesh = mesh_file.read(config)
    section = mesh.experts[0].model_copy(update={"listen": "127.0.0.1:0", "max_in_flight": 1000})
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as life:
        print("the engine starts", file=sys.stderr)
        engine: Any = await life.enter_async_context(open_engine(section))
        server = await life.enter_async_context(expert_server(engine, section, Telemetry.off()))
        caller = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.expert_throughput",
            "--call",
            f"127.0.0.1:{server.port}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert caller.stdin is not None
        assert caller.stdout is not None

        async def direct(number: int) -> int:
            """`AsyncLLM` as its users call it: the same prompt, template and sampling."""
            from vllm.sampling_params import RequestOutputKind, SamplingParams

            llm = engine._llm
            ids = llm.get_tokenizer().apply_chat_template(
                [{"role": "user", "content": prompt(number)}], add_generation_prompt=True, return_dict=False
            )
            params = SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
            )
            count = 0
            outputs = llm.generate({"prompt_token_ids": ids}, params, f"direct-{number}-{time.monotonic_ns()}")
            async with aclosing(outputs):
                async for output in outputs:
                    count += len(output.outputs[0].token_ids)
            return count

        for concurrent in (1, 8, 32):
            requests = max(4, 2 * concurrent)
            seen: dict[str, list[float]] = {"direct": [], "Session": [], "Generate": []}
            for turn in range(rounds + 1):  # the first round warms up
                for way, speeds in seen.items():
                    if way == "direct":
                        began = time.monotonic()
                        speed = await in_turn(direct, concurrent, requests) / (time.monotonic() - began)
                    else:
                        caller.stdin.write(f"{way} {concurrent} {requests} {tokens}\n".encode())
                        speed = json.loads(await caller.stdout.readline())
                    if turn:
                        speeds.append(speed)
                    print(f"{concurrent} concurrent, {way}: {speed:.1f} tokens/s", file=sys.stderr)
            pairs = {way: [a / b for a, b in zip(seen[way], seen["direct"], strict=True)] for way in seen}
            rows.append(
                {
                    "concurrent": concurrent,
                    "direct_tokens_per_s": median(seen["direct"]),
                    "session_tokens_per_s": median(seen["Session"]),
                    "generate_tokens_per_s": median(seen["Generate"]),
                    "session_over_direct": median(pairs["Session"]),
                    "generate_over_direct": median(pairs["Generate"]),
                }
            )
        caller.stdin.close()
        await caller.wait()
    return rows


def command(
    config: Annotated[Path, typer.Option(help="Mesh file; its first expert process is measured.")] = Path("mesh.yaml"),
    tokens: Annotated[int, typer.Option(help="Tokens per answer.")] = 64,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each way.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    call_target: Annotated[str, typer.Option("--call", hidden=True)] = "",
) -> None:
    """Measure an expert's gRPC against its engine used directly."""
    if call_target:

        async def calling() -> int:
            await call(call_target)
            return 0

        run(calling())
        return
    found: list[dict[str, Any]] = []

    async def measuring() -> int:
        found.extend(await measure(config, tokens, rounds))
        return 0

    run(measuring())
    load = f"closed loop, {tokens} tokens per answer, greedy; medians of {rounds} alternating rounds, ratios by round"
    show("tokens per second through an expert's gRPC, and directly", found, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
