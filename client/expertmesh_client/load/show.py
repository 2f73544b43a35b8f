"""Showing how a load stands while it runs: live on a terminal, in plain lines elsewhere."""

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from expertmesh_client.load.crew import Progress
from expertmesh_client.load.plan import Rung

if TYPE_CHECKING:
    from rich.console import Group

SAY_AGAIN_S = 10.0  # between lines, where nothing is live


class Show(AbstractContextManager["Show"], Protocol):
    """Is shown a load's progress between its beginning and its end."""

    def begin(self, rung: Rung, place: str) -> None:
        """A rung begins; `place` says which of how many."""

    def progress(self, progress: Progress) -> None:
        """A rung has come so far."""


class _Base:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._place = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, rung: Rung, place: str) -> None:
        self._place = place

    def progress(self, progress: Progress) -> None:
        pass


class Silent(_Base):
    """Shows nothing."""


class Lines(_Base):
    """Writes a line where a rung begins, and every ten seconds."""

    def begin(self, rung: Rung, place: str) -> None:
        super().begin(rung, place)
        self._said_at_s = 0.0
        print(
            f"{place}: {rung.words}, {rung.warm_s:g} s to warm up and {rung.last_s:g} s", file=self._stream, flush=True
        )

    def progress(self, progress: Progress) -> None:
        if progress.elapsed_s - self._said_at_s >= SAY_AGAIN_S:
            self._said_at_s = progress.elapsed_s
            words = f"{progress.elapsed_s:.0f} s: {', '.join(' '.join(cell) for cell in _cells(progress))}"
            print(f"{self._place}: {words}", file=self._stream, flush=True)


class Live(_Base):
    """Keeps a line up to date on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        super().__init__(stream)
        self._live = RichLive(console=Console(file=stream), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, rung: Rung, place: str) -> None:
        super().begin(rung, place)
        self.progress(Progress(rung, float("inf")))

    def progress(self, progress: Progress) -> None:
        self._live.update(self._picture(progress), refresh=True)

    def _picture(self, progress: Progress) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rung, at_s = progress.rung, progress.elapsed_s
        state = "warms up" if at_s < rung.warm_s else "answers under way" if at_s > rung.all_s else "measures"
        table = Table.grid(padding=(0, 2))
        table.add_row(
            f"{self._place}: [bold]{rung.words}[/bold]",
            ProgressBar(rung.all_s, min(at_s, rung.all_s), width=20),
            f"{at_s:.0f} of {rung.all_s:.0f} s, {state}",
        )
        return Group(table, Text.assemble(*(part for cell in _cells(progress) for part in _bold(*cell)), no_wrap=True))


def show_on(stream: TextIO = sys.stderr) -> Show:
    """Return the kind that suits `stream`."""
    return Live(stream) if stream.isatty() else Lines(stream)


def _bold(name: str, value: str) -> tuple[str | tuple[str, str], ...]:
    return f"{name} ", (value, "bold"), "  "


def _cells(progress: Progress) -> list[tuple[str, str]]:
    cells = [("under way", str(progress.under_way)), ("answered", str(progress.done)), ("failed", str(progress.failed))]
    for name, share in (("first token p50", 0.5), ("p99", 0.99)):
        if (value_s := progress.first_token.percentile(share)) is not None:
            cells.append((name, f"{value_s * 1e3:.3g} ms"))
    return cells
