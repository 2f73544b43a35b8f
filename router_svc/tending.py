"""What a router does beside its requests, and what it says of its own health."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from mesh_wire.serving import NOT_SERVING, SERVING, Serving
from router_svc.classifying.faring import Faring
from router_svc.reloading.reload import Reloader

# Names under which `grpc.health.v1` answers, beside the services. The router itself serves in either case.
CLASSIFIER = "expertmesh.v1.RouterService.classifier"  # NOT_SERVING: most prompts are decided by a stand-in
CONFIG = "expertmesh.v1.RouterService.config"  # NOT_SERVING: the mesh file or the artefact, as it is, is not served
TELL_EVERY_S = 0.5


async def tell_health(server: Serving, faring: Faring, reloader: Reloader | None) -> None:
    """Keep the health of a router's parts up to date, for ever."""
    told: dict[str, bool] = {}
    while True:
        well = {CLASSIFIER: not faring.trouble, CONFIG: not (reloader and reloader.problems)}
        for name in (name for name in well if told.get(name) != well[name]):
            await server.health.set(name, SERVING if well[name] else NOT_SERVING)
        told = well
        await asyncio.sleep(TELL_EVERY_S)


@asynccontextmanager
async def kept_up(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run some work beside the block, and end it with the block."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
