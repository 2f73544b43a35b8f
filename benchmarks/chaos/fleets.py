"""What routers say of their fleets."""

import asyncio
import time
from typing import Any

from expertmesh_client import AsyncClient
from mesh_wire.errors import MeshError

LOOK_S, LOOKED_WITHIN_S = 0.5, 2.0
FREE_WITHIN_S = 40.0  # of the end of the last answer, every place must be free


async def fleet_of(client: AsyncClient) -> dict[str, Any] | None:
    """Return what a router says of its replicas, by address; None: it does not answer."""
    try:
        told = await client.experts(timeout_s=LOOKED_WITHIN_S)
    except MeshError:
        return None
    return {
        replica.endpoint: {
            "serving": replica.serving,
            "busy": replica.outstanding + replica.load.running + replica.load.waiting,
        }
        for expert in told.experts
        for replica in expert.replicas
    }


async def all_free(watchers: dict[str, AsyncClient], replicas: int) -> str:
    """Wait until every router serves all replicas, and no place is taken anywhere; returns what is amiss, in words."""
    ends = time.monotonic() + FREE_WITHIN_S
    while True:
        fleets = {name: await fleet_of(client) for name, client in watchers.items()}
        if amiss := _amiss(fleets, replicas):
            if time.monotonic() > ends:
                return amiss
            await asyncio.sleep(LOOK_S)
        else:
            return ""


def _amiss(fleets: dict[str, dict[str, Any] | None], replicas: int) -> str:
    for name, fleet in fleets.items():
        if fleet is None:
            return f"{name} does not answer"
        if (serving := sum(each["serving"] for each in fleet.values())) < replicas:
            return f"{name} has {serving} of {replicas} replicas"
        if busy := {endpoint: each["busy"] for endpoint, each in fleet.items() if each["busy"]}:
            return f"{name} says of places taken: {busy}"
    return ""
