"""Processes and cores: starting what is measured, pinning it, and reading what it used."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """Return the core of the middle and that of backend and client; the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1 % len(usable)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A process on one core, or on all, which dies with this one however this one ends."""

    def __init__(
        self, arguments: Sequence[str], core: int | None, log: Path, more: Mapping[str, str] | None = None
    ) -> None:
        """`more` are environment variables of its own, beside ours."""
        parent, libc = os.getpid(), ctypes.CDLL(None)

        def set_up() -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})
            libc.prctl(_PR_SET_PDEATHSIG, _KILL)
            if os.getppid() != parent:
                os._exit(1)

        paths = [str(ROOT / "protos"), str(ROOT / "client"), str(ROOT)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ROUTER_", "EXPERT_"))}
        env = {**kept, "PYTHONPATH": os.pathsep.join(paths), "EXPERTMESH_LOG": "WARNING", **(more or {})}
        self.log = log
        self._arguments = arguments
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                arguments,
                preexec_fn=set_up,
                process_group=0,  # Ctrl-C is for us alone: we still need it to leave in order
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        for pid in _tree(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        if not self.dead:
            self._signal(_KILL)
        self._process.wait()

    async def listening(self, port: int, within_s: float = 30.0) -> None:
        """Wait until it listens.

        Raises:
            RuntimeError: it ended, or does not listen in time; with the end of its log.
        """
        ends = time.monotonic() + within_s
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        raise self._dead()

    def _dead(self) -> RuntimeError:
        words = self.log.read_text(errors="replace")[-2000:]
        return RuntimeError(f"{' '.join(self._arguments)} did not come up:\n{words}")

    async def wrote(self, file: Path, within_s: float = 30.0) -> str:
        """Return what it wrote to a file, once it has.

        Raises:
            RuntimeError: it ended, or did not write it in time; with the end of its log.
        """
        ends = time.monotonic() + within_s
        while self._process.poll() is None and time.monotonic() < ends:
            if words := _read(str(file)):
                return words
            await asyncio.sleep(0.05)
        raise self._dead()

    def cpu_s(self) -> float:
        """Return the user and system seconds of its process tree so far, to the nanosecond where the kernel says."""
        return sum(_cpu_s(pid) for pid in _tree(self.pid))

    def forget_peak(self) -> None:
        """Have the peak of its memory start from here."""
        for pid in _tree(self.pid):
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                return  # the peak then is that of its life so far

    def peak_mb(self) -> float:
        """Return the peak resident memory of its process tree, in MB."""
        lines = [line for pid in _tree(self.pid) for line in _read(f"/proc/{pid}/status").splitlines()]
        return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))

    def held_mb(self) -> float:
        """Return the memory that its process tree holds now, in MB; pages that it shares count by their share."""
        lines = [line for pid in _tree(self.pid) for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()]
        return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))

    def descriptors(self) -> int:
        """Return how many files and sockets its process tree has open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in _tree(self.pid))


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def busy_s(core: int) -> float:
    """Return the seconds that a core was busy since the machine started, hypervisor's theft included."""
    for line in _read("/proc/stat").splitlines():
        name, *figures = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, hard, soft, steal = map(int, figures[:8])
            return (user + nice + system + hard + soft + steal) * _TICK_S
    return 0.0


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in _tasks(one):
            found += map(int, _read(f"/proc/{one}/task/{task}/children").split())
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    nanoseconds = [_read(f"/proc/{pid}/task/{task}/schedstat").split() for task in _tasks(pid)]
    if nanoseconds and all(nanoseconds):
        return sum(int(one[0]) for one in nanoseconds) / 1e9
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICK_S if fields else 0.0


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""
