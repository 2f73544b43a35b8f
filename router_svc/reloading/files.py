"""Have the mesh file or the artefact changed? Told by times, sizes and inode numbers; nothing is read."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from router_svc.reloading.source import Stamps, stamp_of
from router_svc.strategies.artefact import MANIFEST


def stamps(config: Path, artefact: Path | None) -> Stamps:
    """Return the stamps of the mesh file, the artefact's manifest, its other files and its parts, in this order."""
    paths = _leading_paths(config, artefact)
    if artefact is not None:
        paths += _files(artefact)
        paths += [file for part in _parts(artefact) for file in _files(part)]
    return {path: stamp_of(path) for path in paths}


class Watch:
    """Says when a reload is due: once what is to be read has changed, and then rested from one look to the next.

    A manifest is written last, so that an artefact whose other files change alone is left alone. After a reload that
    failed, any change is a reason to try again: a copy may bring the files in any order.
    """

    def __init__(self, read: Stamps) -> None:
        """Args:
        read: the stamps of what is served, taken before it was read.
        """
        self._read = read
        self._last = read
        self._failed = False

    def look(self, config: Path, artefact: Path | None) -> Stamps:
        """Return the stamps of now, for `due`.

        Those of files that alone are no reason to reload are only taken when there is one: a router that is left in
        peace looks at two files, not at a dozen.
        """
        leading = {path: stamp_of(path) for path in _leading_paths(config, artefact)}
        if not self._failed and leading == _leading(self._read):
            return self._read
        return stamps(config, artefact)

    def due(self, found: Stamps) -> bool:
        """Whether to reload, given what is found at this look."""
        rests = found == self._last
        self._last = found
        changed = found != self._read if self._failed else _leading(found) != _leading(self._read)
        return rests and changed

    def tried(self, read: Stamps, *, failed: bool) -> None:
        """Take note of a reload, and of the stamps from before it."""
        self._read, self._failed = read, failed


def _leading_paths(config: Path, artefact: Path | None) -> list[Path]:
    return [config] if artefact is None else [config, artefact / MANIFEST]


def _leading(found: Stamps) -> Stamps:
    """Return the stamps that tell of a change: those of the mesh file and of the artefact's own manifest."""
    return dict(islice(found.items(), 2))


def _files(folder: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError):
        return []


def _parts(artefact: Path) -> Iterable[Path]:
    """Return the folders of the artefacts that an artefact names: a cascade's."""
    try:
        settings = json.loads((artefact / MANIFEST).read_bytes())["settings"]
        named = [part["folder"] for part in settings.values() if isinstance(part, dict) and "folder" in part]
        return [artefact / folder for folder in named]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # loading it says what is wrong
        return []
