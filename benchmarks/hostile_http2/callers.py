"""Honest callers: one-token answers at a steady rate, timed from the moment at which each was due."""

import asyncio
import math
import time
from dataclasses import dataclass

import grpc

from benchmarks.data_plane.host import Child, busy_s
from benchmarks.prompts import prompt
from benchmarks.report import percentile
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub

PER_S = 100.0
WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen in a few seconds."""

    p50_ms: float
    p99_ms: float
    failed: int
    cpu: float  # of the server, as a share of a core
    others: float  # what processes that are not ours used of that core


async def window(stub: InferenceServiceStub, server: Child, core: int, seconds: float) -> Window:
    """Ask for some seconds, and wait for all answers; server and callers are on that core."""
    began, cpu_s, own_s, core_s = time.monotonic(), server.cpu_s(), time.process_time(), busy_s(core)
    asking: list[asyncio.Task[float | None]] = []
    for number in range(max(1, int(seconds * PER_S))):
        due = began + number / PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asking.append(asyncio.create_task(_one(stub, number, due)))
    took_s = [one for one in await asyncio.gather(*asking) if one is not None]
    lasted_s, cpu_s = time.monotonic() - began, server.cpu_s() - cpu_s
    others_s = max(0.0, busy_s(core) - core_s - cpu_s - (time.process_time() - own_s))
    p50_s, p99_s = (percentile(took_s, share) if took_s else math.inf for share in (0.5, 0.99))
    failed = len(asking) - len(took_s)
    return Window(1000 * p50_s, 1000 * p99_s, failed, cpu_s / lasted_s, others_s / lasted_s)


async def _one(stub: InferenceServiceStub, number: int, due: float) -> float | None:
    """Return how many seconds after it was due an answer was whole; None: it failed."""
    request = GenerateRequest(prompt=prompt(number), sampling=Sampling(max_new_tokens=1))
    try:
        async for message in stub.Generate(request, timeout=WITHIN_S):
            if message.HasField("finished"):
                return time.monotonic() - due
    except grpc.RpcError:
        pass
    return None
