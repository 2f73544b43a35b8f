"""What `expertmesh load` does once its options make sense."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertmesh_client.cli.failures import FAILED, INTERRUPTED
from expertmesh_client.cli.shapes import columns
from expertmesh_client.load.ceiling import Ceiling, measure_ceiling
from expertmesh_client.load.climb import acquainted, climb
from expertmesh_client.load.plan import Job, Rung
from expertmesh_client.load.report import ceiling_line, document, remarks, table, written
from expertmesh_client.load.show import Show, show_on
from mesh_wire.process import terminated

SATURATED = 3  # exit code


class Run:
    """One run of the command: what it was told, and what it has found so far."""

    def __init__(self, job: Job, rungs: Sequence[Rung], out: Sequence[Path], *, as_json: bool) -> None:
        self._job = job
        self._rungs = rungs
        self._out = out
        self._as_json = as_json
        self._ceiling: Ceiling | None = None
        self._results: list[dict[str, Any]] = []
        self._stop = asyncio.Event()

    async def run(self, *, with_ceiling: bool) -> int:
        """Do it all and print it, as far as it came; returns the exit code.

        Raises:
            MeshError, BadLoad, LoadFailed: as `acquainted` and `climb` do.
        """
        heeding = asyncio.create_task(self._heed())
        try:
            if self._rungs:
                self._job = await acquainted(self._job)
            with show_on(sys.stderr) as show:
                if with_ceiling and not await self._find_ceiling(show, heeding):
                    return INTERRUPTED
                await climb(self._job, self._rungs, self._note, show=show, ceiling=self._ceiling, stop=self._stop)
        finally:
            heeding.cancel()
            self._print()
        if self._stop.is_set():
            if not self._results:
                print("interrupted before anything counted", file=sys.stderr)
            return INTERRUPTED
        return self._code()

    async def _heed(self) -> None:
        await terminated()
        self._stop.set()

    async def _find_ceiling(self, show: Show, heeding: "asyncio.Task[None]") -> bool:
        """Measure it; returns whether that was done before somebody stopped us."""
        measuring = asyncio.create_task(measure_ceiling(self._job, show))
        await asyncio.wait({measuring, heeding}, return_when=asyncio.FIRST_COMPLETED)
        if not measuring.done():
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
            return False
        self._ceiling = measuring.result()
        return True

    def _note(self, result: dict[str, Any]) -> None:
        self._results.append(result)
        for path in self._out:
            written(path, self._document())

    def _document(self) -> dict[str, Any]:
        complete = len(self._results) == len(self._rungs) and all(result["complete"] for result in self._results)
        return document(self._job, self._ceiling, self._results, complete=complete)

    def _print(self) -> None:
        if self._as_json and (self._results or self._ceiling):
            print(json.dumps(self._document(), ensure_ascii=False, indent=2))
            return
        if self._ceiling is not None:
            print(ceiling_line(self._ceiling))
        if self._results:
            print("\n".join(columns(table(self._results))))
        for line in remarks(self._results):
            print(line, file=sys.stderr)

    def _code(self) -> int:
        if any(result["asked"] and not result["answered"] for result in self._results):
            return FAILED
        return SATURATED if any(result["generator"]["saturated"] for result in self._results) else 0
