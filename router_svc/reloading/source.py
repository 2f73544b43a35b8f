"""The mesh file by which a router was started, and whether it is still the same. Light: a supervisor reads it too."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh_wire import mesh_file
from mesh_wire.settings import Mesh

Stamp = tuple[int, int, int] | None  # nanoseconds, bytes, inode; None: it is not there
Stamps = Mapping[Path, Stamp]


@dataclass(frozen=True, slots=True)
class Source:
    """A mesh file as it was read."""

    path: Path
    mesh: Mesh  # what it said
    stamp: Stamp  # from before it was read

    @classmethod
    def read(cls, path: Path, env: Mapping[str, str] = os.environ) -> "Source":
        """Read the file of a router that is about to start.

        Raises:
            Mistakes: all that is wrong with it.
        """
        stamp = stamp_of(path)
        return cls(path, mesh_file.read(path, env, router=True), stamp)


def stamp_of(path: Path) -> Stamp:
    """Return by what a change of a file is noticed; links are followed."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null in the path
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
