"""How a run stands: a bar with the time left on a terminal, a line for each cell elsewhere."""

from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from expertmesh_client.load.crew import Progress as Load


class Show:
    """Is told of each cell as it begins, and of its progress."""

    def __init__(self, stream: TextIO, cells: int) -> None:
        self._console = Console(file=stream)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[more]}"),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None, more="")
        self._cells = cells

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def cell(self, words: str, place: str, left_s: float) -> None:
        """A cell begins, or a mesh starts: what, which of how many, and the seconds that are left of the whole."""
        left = f"about {left_s / 60:.0f} min left" if left_s >= 90 else f"about {left_s:.0f} s left"
        if self._console.is_terminal:
            self._bar.update(self._task, description=f"{place}: {words}", more=left, total=None, completed=0)
        else:
            self._console.print(f"{place}: {words}; {left}", soft_wrap=True, highlight=False)

    def progress(self, progress: Load) -> None:
        """A cell has come so far."""
        rung = progress.rung
        self._bar.update(self._task, total=rung.all_s, completed=min(rung.all_s, progress.elapsed_s))
