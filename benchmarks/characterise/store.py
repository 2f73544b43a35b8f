"""Results on disk: a file for each cell, written whole or not at all, known again by all that it depends on."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.characterise.grid import Cell


class NotKept(Exception):
    """A result could not be written; those before it are on disk."""


class Store:
    """A folder of results. Those of other grids, or of other versions, are left alone and not read."""

    def __init__(self, folder: Path) -> None:
        """Raises NotKept where there can be no such folder."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotKept(f"{folder}: {error.strerror}") from None

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.configuration.key}.{cell.way}.{cell.users}.{cell.id}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return a cell's result, complete or not; None where there is none, or none that can be read."""
        with suppress(OSError, ValueError):
            told: dict[str, Any] = json.loads(self.path(cell).read_text(encoding="utf-8"))
            if told.get("id") == cell.id:
                return told
        return None

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Write a cell's result.

        Raises:
            NotKept: there is no room, or no permission.
        """
        written(self.path(cell), json.dumps(result, indent=1) + "\n")

    def others(self, cells: Iterable[Cell]) -> int:
        """Return how many results in the folder belong to no cell of the grid."""
        ours = {self.path(cell) for cell in cells}
        return sum(path not in ours for path in self.folder.glob("*.*.*.*.json"))


def written(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        NotKept: it could not be written; what was there before is still there.
    """
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise NotKept(f"{path}: {error.strerror}") from None
