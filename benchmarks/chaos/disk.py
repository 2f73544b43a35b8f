"""A small disk of its own under the trace store, which can be filled to its last byte."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.network import run_command

SIZE_KB = 1024


class Disk:
    """The disk, mounted at `folder`. Made by `disk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Have a disk at `folder`, until the block ends.

    Raises:
        CannotRun: nothing can be mounted here.
    """
    folder.mkdir()
    run_command("mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(folder))
    try:
        yield Disk(folder)
    finally:
        run_command("umount", "-l", str(folder))
