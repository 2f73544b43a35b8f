"""One process of a mesh: its start, its log, its end."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from mesh_wire.tls import ClientTls

TAIL_BYTES = 8192
_PREFIX = re.compile(r"^[-\d]+ [:,.\d]+ [A-Z]+ [\w.]+: ")  # time, level and module, as `mesh_wire.process` logs them
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class State(Enum):
    STARTING = "starting"
    SERVING = "SERVING"
    ENDED = "ended"


@dataclass
class Child:
    """A process that serves at `address` once it is ready."""

    name: str
    command: Sequence[str]
    address: str  # host:port at which this machine reaches it
    log: Path
    grace_s: float  # seconds between SIGTERM and SIGKILL
    tls: ClientTls | None = None
    experts: tuple[str, ...] = ()  # what it serves; none for a router
    state: State = State.STARTING
    began: float = field(default_factory=time.monotonic)
    _process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.returncode if self._process else None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    async def start(self, env: Mapping[str, str]) -> None:
        """Start it as the head of a process group of its own, so that all that it starts can be ended with it.

        Started again, it goes on in its log.
        """
        with self.log.open("wb" if self._process is None else "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.began = time.monotonic()
        self.state = State.STARTING

    async def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        code = await self._running.wait()
        self.state = State.ENDED
        return code

    async def stop(self) -> None:
        """Ask it to end, wait for as long as it may take, then end it and whatever it has left behind."""
        if self._process is None:
            return
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(self.grace_s):
                await self.ended()
        except TimeoutError:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
                os.killpg(self._process.pid, signal.SIGKILL)
        await self.ended()

    def tail(self, lines: int = 15) -> list[str]:
        """Return the last lines of its log, without colours and empty lines."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        written = (_ESCAPES.sub("", line).rstrip() for line in re.split(r"[\r\n]+", text))
        return [line for line in written if line.strip()][-lines:]

    @property
    def last_words(self) -> str:
        """The message of the last line of its log; empty if there is none."""
        return _PREFIX.sub("", (self.tail(1) or [""])[0])

    @property
    def reason(self) -> str:
        """Why it ended, in one line: its own last `error:`, else how it ended."""
        errors = [line.removeprefix("error:").strip() for line in self.tail(50) if line.startswith("error:")]
        if errors:
            return errors[-1]
        code = self.exit_code
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"
        return f"{how}; its last words: {self.last_words or 'none'}"

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process
