"""One cell of the grid: a load on a mesh that runs, and all that is seen of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from benchmarks.characterise.grid import Cell
from benchmarks.characterise.watching import Watch
from benchmarks.report import machine
from expertmesh_client.load.climb import acquainted, climb
from expertmesh_client.load.crew import Progress
from expertmesh_client.load.plan import Job, Rung
from expertmesh_client.load.show import Show
from expertmesh_client.running import RunningMesh


class _Told:
    """A `Show` that passes progress on."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, rung: Rung, place: str) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        self._on_progress(progress)


def job_of(cell: Cell, target: str, connections: int) -> Job:
    """Return what the load generator is to do in a cell."""
    configuration = cell.configuration
    return Job(
        target=target,
        connections=connections,
        expert="" if cell.way == "routed" else "general",
        skew=dict(configuration.skew),
        prompt_words=configuration.prompt_words,
        output_tokens=str(configuration.output_tokens),
        exact=True,
        fresh=True,  # no cache knows a prompt's beginning
        timeout_s=600,
    )


async def measured(
    cell: Cell,
    mesh: RunningMesh,
    *,
    connections: int = 4,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any] | None:
    """Put a cell's load on its mesh, and return its result; None where nothing counted before it was stopped.

    All times in it are in this machine's seconds, whatever the configuration's speed.

    Raises:
        MeshError, BadLoad, LoadFailed: as `climb` does.
    """
    target = mesh.target if cell.way == "routed" else mesh.experts[0].address
    job = await acquainted(job_of(cell, target, connections))
    began, load_before = datetime.now(UTC), os.getloadavg()[0]
    results: list[dict[str, Any]] = []
    show: Show = _Told(on_progress)
    async with _watching(Watch(target, routed=cell.way == "routed")) as watch:
        await climb(job, [cell.rung], results.append, show=show, stop=stop)
    if not results:
        return None
    [result] = results
    return {
        "id": cell.id,
        "configuration": cell.configuration.key,
        "kind": cell.configuration.kind,
        "users": cell.users,
        "way": cell.way,
        "speed": cell.configuration.speed,
        "complete": result["complete"],
        "measured_at": began.isoformat(timespec="seconds"),
        "load_average_before": round(load_before, 2),
        "machine": machine(),
        "seen": watch.found(),
        "result": result,
    }


@asynccontextmanager
async def _watching(watch: Watch) -> AsyncIterator[Watch]:
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
