"""An endpoint that answers at once: what the generator's own ceiling is measured against.

    python -m expertmesh_client.load.instant

It speaks `InferenceService` on a free port, writes the port as its first line, and with each later line of its standard
input the share of a core that its event loop used since the line before.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from expertmesh.v1 import inference_pb2_grpc
from expertmesh.v1.generation_pb2 import Delta, Finished, FinishReason, GenerateRequest, GenerateResponse, Usage
from expertmesh.v1.inference_pb2 import DeltaColumns, SessionFinished, SessionRequest, SessionResponse
from mesh_wire import process
from mesh_wire.wire_options import server_options

WORD, TOKEN = " yes", 7


class Instant(inference_pb2_grpc.InferenceServiceServicer):
    """Gives `max_new_tokens` tokens, one a message, as fast as they are taken."""

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[GenerateResponse, None]:
        token = GenerateResponse(delta=Delta(text=WORD, token_ids=[TOKEN]))
        wanted = request.sampling.max_new_tokens or 1
        for _ in range(wanted):
            yield token
        yield GenerateResponse(finished=_finished(wanted))

    async def Session(
        self, requests: AsyncIterator[SessionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[SessionResponse, None]:
        """Step through all that runs: a token for each in every message."""
        left: dict[int, int] = {}  # stream -> tokens to come
        wanted: dict[int, int] = {}
        work = asyncio.Event()
        reading = asyncio.create_task(_read(requests, left, wanted, work))
        try:
            while True:
                await work.wait()
                if not left:
                    work.clear()
                    continue
                yield _step(left, wanted)
                await asyncio.sleep(0)  # starts and cancels come in between
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


async def _read(
    requests: AsyncIterator[SessionRequest], left: dict[int, int], wanted: dict[int, int], work: asyncio.Event
) -> None:
    async for message in requests:
        for start in message.starts:
            left[start.stream_id] = wanted[start.stream_id] = start.request.sampling.max_new_tokens or 1
        for stream_id in message.cancels:
            left.pop(stream_id, None)
            wanted.pop(stream_id, None)
        work.set()


def _step(left: dict[int, int], wanted: dict[int, int]) -> SessionResponse:
    streams = list(left)
    count = len(streams)
    deltas = DeltaColumns(stream_ids=streams, texts=[WORD] * count, token_counts=[1] * count, token_ids=[TOKEN] * count)
    ended = []
    for stream_id in streams:
        left[stream_id] -= 1
        if not left[stream_id]:
            del left[stream_id]
            ended.append(SessionFinished(stream_id=stream_id, finished=_finished(wanted.pop(stream_id))))
    return SessionResponse(deltas=deltas, finished=ended)


def _finished(tokens: int) -> Finished:
    usage = Usage(prompt_tokens=1, completion_tokens=tokens)
    return Finished(reason=FinishReason.FINISH_REASON_LENGTH, usage=usage)


async def main() -> int:
    """Serve until standard input ends."""
    server = grpc.aio.server(options=server_options())
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Instant(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    wall, loop = time.monotonic(), time.thread_time()
    while await reader.readline():
        took_s = max(1e-9, time.monotonic() - wall)
        print((time.thread_time() - loop) / took_s, flush=True)
        wall, loop = time.monotonic(), time.thread_time()
    await server.stop(0)
    return process.STOPPED


if __name__ == "__main__":
    process.begin("WARNING")
    sys.exit(process.run(main()))
