"""From the first cell of a grid to the last, with what is there already left out."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.characterise.cell import measured
from benchmarks.characterise.configurations import Configuration
from benchmarks.characterise.grid import START_S, Cell
from benchmarks.characterise.meshes import mesh_of
from benchmarks.characterise.store import Store
from expertmesh_client.load.problems import LoadFailed
from expertmesh_client.running import ChildFailed, RunningMesh
from mesh_wire.errors import MeshError


class Pace:
    """Foretells what is left, from how long things took against what was expected of them."""

    def __init__(self, expected_s: float) -> None:
        self._left_s = expected_s
        self._expected_s = self._took_s = 0.0

    def done(self, expected_s: float, took_s: float) -> None:
        self._left_s = max(0.0, self._left_s - expected_s)
        self._expected_s += expected_s
        self._took_s += took_s

    @property
    def left_s(self) -> float:
        return self._left_s * (self._took_s / self._expected_s if self._expected_s else 1.0)


async def climb_grid(
    cells: Sequence[Cell], store: Store, show: Any, *, connections: int, stop: asyncio.Event, until: float | None
) -> dict[str, str]:
    """Measure the cells that have no complete result yet; returns configuration -> why it could not be measured.

    Args:
        show: is told of each cell with `cell(words, place, left_s)` and `progress(progress)`.
        until: on the monotonic clock; no cell begins after it.

    Raises:
        NotKept: a result could not be written.
    """
    todo = [cell for cell in cells if not (store.read(cell) or {}).get("complete")]
    starts = {cell.configuration.key: START_S[cell.configuration.kind] for cell in todo}
    pace = Pace(sum(cell.expected_s for cell in todo) + sum(starts.values()))
    failed: dict[str, str] = {}
    place = len(cells) - len(todo)
    for _, group in groupby(todo, key=lambda cell: cell.configuration.key):
        alike = list(group)
        configuration = alike[0].configuration
        if stop.is_set() or (until is not None and time.monotonic() > until):
            break
        began = time.monotonic()
        show.cell(f"{configuration.title}: starting", f"{place} of {len(cells)} done", pace.left_s)
        with tempfile.TemporaryDirectory(prefix="characterise-") as folder:
            try:
                async with AsyncExitStack() as life:
                    mesh = await _started(life, configuration, Path(folder), stop)
                    if mesh is None:
                        return failed
                    pace.done(starts[configuration.key], time.monotonic() - began)
                    for cell in alike:
                        if stop.is_set() or (until is not None and time.monotonic() > until):
                            return failed
                        show.cell(cell.words, f"{place + 1} of {len(cells)}", pace.left_s)
                        began = time.monotonic()
                        result = await measured(
                            cell, mesh, connections=connections, stop=stop, on_progress=show.progress
                        )
                        if result is not None:
                            store.keep(cell, result)
                        pace.done(cell.expected_s, time.monotonic() - began)
                        place += 1
            except (ChildFailed, LoadFailed, MeshError) as error:
                failed[configuration.key] = str(error)
                print(f"{configuration.title}: {error}", file=sys.stderr, flush=True)
    return failed


async def _started(
    life: AsyncExitStack, configuration: Configuration, folder: Path, stop: asyncio.Event
) -> RunningMesh | None:
    """Start a mesh, for as long as `life`; None where somebody stopped us first: an engine takes minutes."""
    starting = asyncio.create_task(life.enter_async_context(mesh_of(configuration, folder)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return None
    return starting.result()
