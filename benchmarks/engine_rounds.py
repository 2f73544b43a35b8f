"""A real engine asked in several ways, in alternating rounds: what `expert_throughput` and `end_to_end` share.

The engine runs in this process, as in an expert process. The direct way is `AsyncLLM.generate` on the same event loop;
the others have their caller in a process of its own, on the same cores.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from benchmarks.prompts import prompt
from benchmarks.report import median
from expertmesh.v1.generation_pb2 import Sampling

Speed = Callable[[int, int], Awaitable[float]]  # requests at once, requests in all -> tokens per second
EXPERT = "general"
BATCHES = 2  # requests for each that is under way at once
FEWEST = 4  # requests in a round


def sampling(tokens: int) -> Sampling:
    return Sampling(temperature=0, max_new_tokens=tokens, ignore_eos=True)


async def in_turn(one: Callable[[int], Awaitable[int]], concurrent: int, requests: int) -> float:
    """Make `requests` calls, `concurrent` at a time; returns the tokens per second of all."""
    numbers, began = iter(range(requests)), time.monotonic()

    async def worker() -> int:
        return sum([await one(number) for number in numbers])

    tokens = sum(await asyncio.gather(*(worker() for _ in range(concurrent))))
    return tokens / (time.monotonic() - began)


def directly(engine: Any, tokens: int) -> Speed:
    """Return `AsyncLLM` as its users call it: the same prompt, template and sampling."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    llm = engine._llm
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)

    async def one(number: int) -> int:
        ids = llm.get_tokenizer().apply_chat_template(
            [{"role": "user", "content": prompt(number)}], add_generation_prompt=True, return_dict=False
        )
        count = 0
        outputs = llm.generate({"prompt_token_ids": ids}, params, f"direct-{number}-{time.monotonic_ns()}")
        async with aclosing(outputs):
            async for output in outputs:
                count += len(output.outputs[0].token_ids)
        return count

    return lambda concurrent, requests: in_turn(one, concurrent, requests)


@asynccontextmanager
async def calling(module: str, target: str) -> AsyncIterator[Callable[[str, int], Speed]]:
    """Start `python -m MODULE --call TARGET`, which does `serve_orders`; yields ways, by name and tokens per answer."""
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--call", target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    orders, answers = caller.stdin, caller.stdout

    def way(name: str, tokens: int) -> Speed:
        async def speed(concurrent: int, requests: int) -> float:
            orders.write(f"{name} {concurrent} {requests} {tokens}\n".encode())
            if not (answer := await answers.readline()):
                raise RuntimeError(f"the calling process has ended: {await caller.wait()}")
            return float(json.loads(answer))

        return speed

    try:
        yield way
    finally:
        orders.close()
        await caller.wait()


async def serve_orders(one: Callable[[int, str, int], Awaitable[int]]) -> None:
    """Be a calling process: for each line `way concurrent requests tokens` on standard input, one timed round.

    Args:
        one: makes the request of a number by a way for so many tokens; returns how many came.
    """
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        way, *figures = line.decode().split()
        concurrent, requests, tokens = map(int, figures)

        async def mine(number: int, way: str = way, tokens: int = tokens) -> int:
            return await one(number, way, tokens)

        print(json.dumps(await in_turn(mine, concurrent, requests)), flush=True)


async def alternate(ways: Mapping[str, Speed], concurrent: int, rounds: int) -> dict[str, list[float]]:
    """Measure the ways in turn, the first to go another one each round; the round before the first warms up."""
    seen: dict[str, list[float]] = {way: [] for way in ways}
    names, requests = list(ways), max(FEWEST, BATCHES * concurrent)
    for number in range(rounds + 1):
        first = number % len(names)
        for way in names[first:] + names[:first]:
            speed = await ways[way](concurrent, requests)
            if number:
                seen[way].append(speed)
            what = f"round {number} of {rounds}" if number else "to warm up"
            print(f"{concurrent} concurrent, {what}, {way}: {speed:.1f} tokens/s", file=sys.stderr)
    return seen


def over(seen: Mapping[str, list[float]], way: str, base: str) -> float:
    """Return the median over rounds of one way's speed as a share of another's in the same round."""
    return median([a / b for a, b in zip(seen[way], seen[base], strict=True)])
