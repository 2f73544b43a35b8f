"""Waiting until a mesh is ready: each process by its health, the router by what it sees."""

import asyncio
from collections.abc import Collection
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from expertmesh_client.aio import INFERENCE, AsyncClient
from expertmesh_client.tokens import Token
from mesh_wire.errors import Unavailable, error_of_call
from mesh_wire.serving import open_channel
from mesh_wire.tls import ClientTls

LOOK_AGAIN_S = 0.1  # the router does not tell when it has found an expert


async def serving_at(address: str, tls: ClientTls | None = None) -> None:
    """Return when the server at `address` says SERVING; it may not even listen yet.

    Raises:
        MeshError: it answers, but not to health checks.
    """
    async with open_channel(address, tls) as channel:
        stub: Any = HealthStub(channel)  # its published types lack Watch
        while True:
            watch = stub.Watch(HealthCheckRequest(service=INFERENCE), wait_for_ready=True)
            try:
                async for report in watch:
                    if report.status == HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError as error:
                if error_of_call(error).code is not Unavailable.code:  # it went away: wait for it again
                    raise error_of_call(error) from None
            finally:
                watch.cancel()


async def experts_found(
    address: str, experts: Collection[str], tls: ClientTls | None = None, token: Token | None = None
) -> None:
    """Return when the router at `address` has found a replica for each of `experts`."""
    async with AsyncClient(address, tls=tls, token=token) as client:
        while True:
            fleet = await client.experts()
            if set(experts) <= {expert.name for expert in fleet.experts if expert.available}:
                return
            await asyncio.sleep(LOOK_AGAIN_S)
