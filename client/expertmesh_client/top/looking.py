"""What was seen of a fleet, and looking at it again and again."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import grpc

from expertmesh.v1.router_pb2 import ListExpertsResponse
from mesh_wire.errors import MeshError

# Statuses of a router that may be well again at the next look; with any other, it will say the same again.
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class Look:
    """What is known after a look."""

    target: str
    fleet: ListExpertsResponse | None  # as it was last told; None: never yet
    told_at: float = 0.0  # seconds of `time.monotonic`
    trouble: str = ""  # why the router did not answer this time; empty: it did

    def age_s(self, now: float) -> float:
        """How long ago the fleet was told."""
        return max(0.0, now - self.told_at)


async def looks(
    target: str, ask: Callable[[], Awaitable[ListExpertsResponse]], interval_s: float
) -> AsyncGenerator[Look, None]:
    """Yield a look at once, and another every `interval_s` seconds, whether the router answers or not.

    Raises:
        MeshError: with what it answers, it always will.
    """
    look = Look(target, None)
    while True:
        began = time.monotonic()
        try:
            look = Look(target, await ask(), time.monotonic())
        except MeshError as error:
            if error.code not in PASSING:
                raise
            look = Look(target, look.fleet, look.told_at, " ".join(str(error).split()))
        yield look
        await asyncio.sleep(max(0.0, began + interval_s - time.monotonic()))
