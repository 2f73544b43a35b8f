"""A relay as one would write it on the first day: grpcio's asyncio API, a message read, a message written.

`python -m benchmarks.data_plane.naive PORT TARGET...`
"""

import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, GenerateResponse
from expertmesh.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from mesh_wire.process import run


class Relay(InferenceServiceServicer):
    def __init__(self, targets: list[str]) -> None:
        self._stubs = itertools.cycle([InferenceServiceStub(grpc.aio.insecure_channel(one)) for one in targets])

    async def Generate(self, request: GenerateRequest, context: Any) -> AsyncIterator[GenerateResponse]:
        async for message in next(self._stubs).Generate(request):
            yield message


async def serve(port: str, targets: list[str]) -> int:
    server = grpc.aio.server()
    add_InferenceServiceServicer_to_server(Relay(targets), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()
    return 0


if __name__ == "__main__":
    run(serve(sys.argv[1], sys.argv[2:]))
