"""`make setup`: an environment from the lock file, and the project in it, editable.

Runs under the machine's own Python before anything is installed: standard library only, and old syntax, so that an
old Python still gets to say which one is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
LOCK = HERE / "cpu.lock"
LOCKED_FOR = (3, 11)
EXPECTED = "Python 3.11 on Linux x86_64"
EVERY_S = 10.0  # between lines of progress where nobody watches a terminal

NO_CPU_TORCH = """\
pip's configured indexes do not offer torch {torch} for Python {python}: the CPU build, on which this project runs.
PyTorch publishes it on an index of its own: choose pip and CPU under "Get Started" on pytorch.org, and give the
address of the index that the page shows to pip, once and for all or for this run:
    pip config set global.extra-index-url ADDRESS
    PIP_EXTRA_INDEX_URL=ADDRESS make setup"""
NO_COMPILER = """\
note: there is no C++ compiler. On a CPU, vLLM compiles parts of a model when it starts: install g++, or put
`enforce_eager: true` under `vllm` in mesh.yaml, which is slower."""
NO_LIBNUMA = "note: there is no libnuma, which vLLM needs on a CPU: install libnuma1 (Debian, Ubuntu) or numactl-libs."


class Unready(Exception):
    """The environment cannot be made; the message says what to do about it."""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: install.py VENV")
    began = time.monotonic()
    try:
        check_python()
        venv = Venv(Path(sys.argv[1]).resolve())
        check_torch(venv)
        packages = locked()
        say(f"installing {len(packages)} packages from {LOCK.name}")
        # Wheels only: a build from source would fail much later, and less clearly.
        wheels = ("--no-deps", "--no-compile", "--only-binary", ":all:")
        venv.pip("install", *wheels, "-r", str(LOCK), packages=len(packages))
        say("compiling")
        venv.compile()
        say("installing the project, editable")
        venv.pip("install", "--no-deps", "--no-build-isolation", "--editable", str(HERE.parent))
        look_around()
        say(f"ready in {time.monotonic() - began:.0f} s")
    except Unready as error:
        sys.exit(f"set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nset-up interrupted; the next one goes on from here")


def check_python() -> None:
    if sys.version_info < LOCKED_FOR:
        raise Unready(
            f"{sys.executable} is Python {platform.python_version()}; 3.11 or newer is needed, best 3.11, which the "
            "lock file is for. Say where one is: make setup PYTHON=/path/to/python3.11"
        )
    here = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
    if here != EXPECTED:
        say(f"note: the lock file is for {EXPECTED}, and this is {here}. It may lack wheels for some packages; trying.")


def locked() -> dict[str, str]:
    lines = (line.strip() for line in LOCK.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pairs}


class Venv:
    """The environment; made unless it is there."""

    def __init__(self, folder: Path) -> None:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.packages = folder / "lib" / python / "site-packages"
        self.log = folder / "setup.log"  # all that pip says
        self._python = str(folder / "bin" / "python")
        self._pip = [self._python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        if not (self.packages / "pip").is_dir():
            say(f"making {folder.name} with Python {platform.python_version()}")
            # --clear: what is there was made by another Python, or not to the end.
            command = [sys.executable, "-m", "venv", "--clear", str(folder)]
            made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - our own words
            if made.returncode:
                raise Unready(made.stdout.decode(errors="replace").strip())
        self.log.write_bytes(b"")

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        answer = subprocess.run([*self._pip, *arguments], capture_output=True)  # noqa: S603 - our own words
        self.log.write_bytes(answer.stdout + answer.stderr)
        return answer

    def pip(self, *arguments: str, packages: int = 0) -> None:
        """Run pip, and show how far it is with so many packages."""
        command = [*self._pip, *arguments, "--progress-bar", "off"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - our own
        said: list[str] = []
        listening = threading.Thread(target=self._listen, args=(process.stdout, said))
        listening.start()
        progress = Progress()
        while listening.is_alive():
            listening.join(0.5)
            if packages:
                progress.show(self._stage(list(said), packages))
        progress.over()
        if process.wait():
            errors = [line[:200] for line in said if line.startswith("ERROR:")][-3:] or said[-5:]
            raise Unready("\n".join([*errors, f"All that pip said is in {self.log}"]))

    def compile(self) -> None:
        """Compile what was installed, on all cores; pip would do it on one."""
        command = [self._python, "-m", "compileall", "-q", "-j", "0", str(self.packages)]
        # A few files are templates, or for other Pythons, and do not compile. Nobody imports them.
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - our own words
        with self.log.open("ab") as log:
            log.write(said.stdout)

    def _listen(self, pip_says: IO[bytes], said: list[str]) -> None:
        with self.log.open("ab") as log:
            for line in pip_says:
                log.write(line)
                log.flush()
                said.append(line.decode(errors="replace").rstrip())

    def _stage(self, said: list[str], packages: int) -> str:
        if any(line.startswith("Installing collected packages") for line in said):
            return f"{min(packages, len(list(self.packages.glob('*.dist-info'))))} of {packages} are in place"
        # "Collecting NAME==VERSION (from ...)", or "Requirement already satisfied: NAME==VERSION in ..."
        found = [line for line in said if line.startswith(("Collecting", "Requirement already"))]
        return f"{len(found)} of {packages} fetched"


class Progress:
    """A line that is written again and again on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stdout.isatty()

    def show(self, words: str) -> None:
        now = time.monotonic()
        words = f"  {words}, {now - self._began:.0f} s"
        if self._terminal:
            print(f"\r\033[K{words}", end="", flush=True)
        elif now - self._shown >= EVERY_S:
            self._shown = now
            say(words)

    def over(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def check_torch(venv: Venv) -> None:
    """Ask for the one package that pip's default index does not have, before minutes go into all the others."""
    torch = locked()["torch"]
    if (venv.packages / f"torch-{torch}.dist-info").is_dir():
        return
    answer = venv.ask("index", "versions", "torch")
    words = answer.stderr.decode(errors="replace")
    if torch in answer.stdout.decode(errors="replace").replace(",", " ").split():
        return
    if "unknown command" in words:  # pip calls `index` experimental; without it, the installation itself will tell
        return
    if answer.returncode:
        say("\n".join(line for line in words.splitlines() if line.startswith("ERROR:")))
    raise Unready(NO_CPU_TORCH.format(torch=torch, python="{}.{}".format(*sys.version_info[:2])))


def look_around() -> None:
    """Say what the machine lacks that no wheel brings. Only real engines need it."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        say(NO_COMPILER)
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        say(NO_LIBNUMA)


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
