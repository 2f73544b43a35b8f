"""The least that a token costs with `grpc.aio`: a server that has its tokens ready and does nothing but write them.

`python -m benchmarks.data_plane.floor PORT RATE MESSAGES`: bytes in, bytes out, no interceptor. An answer is a token at
once and then one at each step, RATE a second, all answers in step; one-token answers have MESSAGES messages, in the
order route, token, end. Where our router's `Generate` costs no more than this, only another server would be cheaper.
"""

import asyncio
import sys
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, GenerateResponse, RouteChosen
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


async def serve(port: str, rate: float, messages: int) -> int:
    steps = Steps(rate) if rate else None
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

    server = grpc.aio.server(options=server_options())
    handlers: dict[str, Any] = {"Generate": grpc.unary_stream_rpc_method_handler(generate)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("expertmesh.v1.InferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    settle()
    await server.wait_for_termination()
    return 0


if __name__ == "__main__":
    run(serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
