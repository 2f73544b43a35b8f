"""Showing how a mesh starts: live on a terminal, in plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from expertmesh_client.child import Child, State

if TYPE_CHECKING:
    from rich.table import Table

SAY_AGAIN_S = 10.0  # between lines about a process that still starts


class Progress(AbstractContextManager["Progress"], Protocol):
    """Is shown the processes of a mesh, again and again, between its beginning and its end."""

    def show(self, children: Sequence[Child]) -> None: ...


class _Base:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Silent(_Base):
    """Shows nothing."""

    def show(self, children: Sequence[Child]) -> None:
        pass


class Lines(_Base):
    """Writes a line when something changes, and every ten seconds otherwise."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._said: dict[str, tuple[State, float]] = {}

    def show(self, children: Sequence[Child]) -> None:
        now = time.monotonic()
        for child in children:
            state, at = self._said.get(child.name, (None, now))
            if child.state is state and (state is not State.STARTING or now - at < SAY_AGAIN_S):
                continue
            self._said[child.name] = (child.state, now)
            words = f": {child.last_words}" if child.state is State.STARTING and child.last_words else ""
            self._write(f"{child.name}: {child.state.value} after {child.elapsed_s:.0f} s{words}")


class Live(_Base):
    """Keeps a table up to date on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._live = RichLive(console=Console(file=stream), auto_refresh=False, transient=True)
        self._began: dict[str, float] = {}  # seconds that a process took, once it serves

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, children: Sequence[Child]) -> None:
        self._live.update(self._table(children), refresh=True)

    def _table(self, children: Sequence[Child]) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 1), expand=True)
        for no_wrap in (True, True, True):
            table.add_column(no_wrap=no_wrap)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for child in children:
            if child.state is State.STARTING:
                self._began[child.name] = child.elapsed_s
            style = {State.STARTING: "yellow", State.SERVING: "green", State.ENDED: "red"}[child.state]
            table.add_row(
                child.name,
                Text(child.state.value, style),
                f"{self._began.get(child.name, child.elapsed_s):.0f} s",
                Text(child.last_words if child.state is not State.SERVING else child.address, "dim"),
            )
        return table


def progress_on(stream: TextIO = sys.stderr) -> Progress:
    """Return the kind that suits `stream`."""
    return Live(stream) if stream.isatty() else Lines(lambda line: print(line, file=stream, flush=True))
