"""The least that a token costs with `grpc.aio`: a server that has its tokens ready and does nothing but write them.

`python -m benchmarks.data_plane.floor PORT RATE MESSAGES ENGINES`: bytes in, bytes out, no interceptor, nobody behind.
An answer is a token at once and then one at each step, RATE a second. By `Generate`, all answers are in step, and
one-token answers have MESSAGES messages, in the order route, token, end. By `Session`, a step is one message for each
session and each of ENGINES that step in turn, as a router has to write. Where our router costs no more than this, only
another server would be cheaper.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, GenerateResponse, RouteChosen
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse
from mesh_wire.process import run, settle
from mesh_wire.wire_options import server_options

ROUTE = GenerateResponse(route=RouteChosen(expert="general", replica="replica-1")).SerializeToString()
END = GenerateResponse(finished=Finished()).SerializeToString()
EXTRA = {1: ((), ()), 2: ((), (END,)), 3: ((ROUTE,), (END,))}  # messages -> before the tokens, after them


def token(number: int) -> bytes:
    return GenerateResponse(delta=Delta(text=f" t{number % 1000:03d}", token_ids=[number])).SerializeToString()


TOKENS = [token(number) for number in range(20_000)]


class Steps:
    """Wakes whoever waits, so many times a second: one timer for all, as an engine's steps come."""

    def __init__(self, rate: float) -> None:
        self._interval_s = 1 / rate
        self._waiting: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._tick()

    def _tick(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
        self._due += self._interval_s
        self._loop.call_at(self._due, self._tick)

    async def next(self) -> None:
        mine = self._loop.create_future()
        self._waiting.append(mine)
        await mine


def step_of(said: dict[int, int]) -> bytes:
    """Return the message of one step: the next token of each stream."""
    message = SessionResponse()
    for stream_id in said:
        said[stream_id] += 1
    columns = message.deltas
    columns.stream_ids.extend(said)
    columns.texts.extend([" t001"] * len(said))
    columns.token_counts.extend([1] * len(said))
    columns.token_ids.extend(said.values())
    return message.SerializeToString()


class BareSession:
    """Answers one session: a message for each engine's part of the streams whenever that steps, one at once for each
    stream that begins."""

    def __init__(self, context: Any, engines: int) -> None:
        self._context = context
        self._said: list[dict[int, int]] = [{} for _ in range(engines)]  # by engine: stream id -> tokens said
        self._writing = asyncio.Lock()

    async def _write(self, message: bytes) -> None:
        async with self._writing:
            await self._context.write(message)

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        async for raw in requests:
            message = SessionRequest.FromString(raw)
            for start in message.starts:
                fresh = {start.stream_id: 0}
                first = step_of(fresh)
                if start.request.sampling.max_new_tokens > 1:
                    self._said[start.stream_id % len(self._said)] |= fresh
                else:
                    ended = SessionResponse()
                    ended.finished.add(stream_id=start.stream_id)
                    first += ended.SerializeToString()  # messages that follow each other are one
                await self._write(first)
            for stream_id in message.cancels:
                self._said[stream_id % len(self._said)].pop(stream_id, None)

    async def step(self, steps: "Steps") -> None:
        for said in itertools.cycle(self._said):
            await steps.next()
            if said:
                await self._write(step_of(said))


async def serve(port: str, rate: float, messages: int, engines: int) -> int:
    steps = Steps(rate) if rate else None
    turns = Steps(rate * engines) if rate else None
    before, after = EXTRA[messages]

    async def generate(request: bytes, context: Any) -> None:
        for message in before:
            await context.write(message)
        for number in range(1, GenerateRequest.FromString(request).sampling.max_new_tokens + 1):
            if number > 1 and steps is not None:
                await steps.next()
            await context.write(TOKENS[number] if number < len(TOKENS) else token(number))
        for message in after:
            await context.write(message)

    async def session(requests: AsyncIterator[bytes], context: Any) -> None:
        bare = BareSession(context, engines)
        stepping = asyncio.create_task(bare.step(turns)) if turns is not None else None
        try:
            await bare.read(requests)
        finally:
            if stepping is not None:
                stepping.cancel()

    server = grpc.aio.server(options=server_options())
    handlers: dict[str, Any] = {
        "Generate": grpc.unary_stream_rpc_method_handler(generate),
        "Session": grpc.stream_stream_rpc_method_handler(session),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("expertmesh.v1.InferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    settle()
    await server.wait_for_termination()
    return 0


if __name__ == "__main__":
    run(serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
