"""The mesh's processes, each in its namespace: started, and started again when they end, as a supervisor does."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data_plane.host import Child

LOOK_S = 0.05
PAUSE_S = 0.5  # before a process that ended is started again
MEMORY_EVERY_S = 1.0


@dataclass(slots=True)
class Life:
    """One process from its start to its end; seconds of `time.monotonic`."""

    node: str
    child: Child
    began: float
    meant: bool = False  # whether we had it end
    memory: list[tuple[float, float]] = field(default_factory=list)  # when, MB resident


class Kept:
    """A process that is kept running."""

    def __init__(self, node: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.node = node
        self.lives: list[Life] = []
        self._command = command
        self._folder = folder
        self._environment = environment
        self._stopping = False

    @property
    def now(self) -> Life:
        return self.lives[-1]

    def start(self) -> None:
        """Start it; from the main thread, with which it dies however that ends."""
        log = self._folder / f"{self.node}.{len(self.lives)}.log"
        self.lives.append(Life(self.node, Child(self._command, None, log, self._environment), time.monotonic()))

    async def keep(self, tell: Callable[[str], None]) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            life = self.now
            if not life.child.dead:
                self._weigh(life)
                continue
            life.child.kill()  # which only takes note
            if not life.meant:
                tell(f"{self.node} ended by itself: {last_words(life.child.log)}")
            await asyncio.sleep(PAUSE_S)
            self.start()

    def send(self, which: signal.Signals) -> None:
        if which in (signal.SIGKILL, signal.SIGTERM):
            self.now.meant = True
        with suppress(ProcessLookupError):
            os.kill(self.now.child.pid, which)

    def end(self) -> None:
        if self.lives:
            self.now.meant = True
            self.now.child.kill()

    def _weigh(self, life: Life) -> None:
        now = time.monotonic()
        if not life.memory or now - life.memory[-1][0] >= MEMORY_EVERY_S:
            life.memory.append((now, resident_mb(life.child.pid)))


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is not shared with files, in MB; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(line for line in lines[-3:] if line.strip()) or "no word"
