"""Traces in files: OTLP-JSON, a line for each export that arrived, in segments of which the oldest go first.

It is the form of the OpenTelemetry Collector's file exporter, and Jaeger's pages open a segment as it is. A line is
written in one piece at the end of a segment that is this store's own, so whatever stops the process can tear the last
line of one segment alone, and readers pass over that.
"""

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from expertmesh_client.traces.files import SEGMENTS, FolderInUse
from expertmesh_client.traces.memory_store import span_count
from expertmesh_client.traces.otlp_json import to_json

LOCK = ".lock"
SEGMENTS_KEPT = 64  # that many make the store's size: so much of it goes at a time, and is read for one trace
CHECK_AGE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a store keeps."""

    max_bytes: int = 256 << 20
    max_age_s: float = 7 * 86_400.0  # since a segment was last written to


@contextmanager
def disk_store(folder: Path, bounds: Bounds, say: Callable[[str], None]) -> "Iterator[DiskStore]":
    """Keep spans in `folder`, which is made where it is missing, until the block ends.

    Args:
        say: is told, once, when nothing can be written, and when it can again.

    Raises:
        FolderInUse: another store writes there.
        OSError: the folder cannot be made, or not be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it, however this process ends
        except BlockingIOError:
            lock.seek(0)
            raise FolderInUse(f"{folder} is being written to by process {lock.read().strip() or '?'}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        store = DiskStore(folder, bounds, say)
        try:
            yield store
        finally:
            store.close()


def _opened(path: Path) -> RawIOBase:
    return path.open("xb", buffering=0)


class DiskStore:
    """Keeps spans in the files of a folder, of which it is the one writer. Safe to use from any thread.

    A store that cannot write drops what comes, counts it, and tries again with the next: its callers are never held.

    Args:
        opened: opens a new segment, unbuffered.
    """

    def __init__(
        self,
        folder: Path,
        bounds: Bounds,
        say: Callable[[str], None] = lambda line: None,
        *,
        opened: Callable[[Path], RawIOBase] = _opened,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0  # spans
        self._folder = folder
        self._bounds = bounds
        self._say = say
        self._open_file = opened
        self._now = now
        self._lock = threading.Lock()
        self._file: RawIOBase | None = None  # the open segment, at `_path`
        self._path = folder
        self._opened_at = 0.0
        self._checked_at = now()
        self._failing_since: int | None = None  # spans dropped before the failure; None while all is well
        self._sizes = {path: path.stat().st_size for path in segments(folder)}  # bytes, oldest first
        self._prune(0)

    def add(self, batches: Sequence[ResourceSpans]) -> int:
        """Keep an export's spans; returns how many were dropped: all or none."""
        count = span_count(batches)
        if not count:
            return 0
        line = json.dumps(to_json(batches), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                if len(line) > self._bounds.max_bytes:
                    raise OSError(errno.EFBIG, "one export is larger than the whole store may be")
                self._rotate(len(line))
                self._write(line)
            except OSError as error:
                self._failed(error, count)
                return count
            self._recovered()
        return 0

    def close(self) -> None:
        with self._lock:
            self._shut()
            self._prune(0)

    def _rotate(self, coming: int) -> None:
        """See to it that there is an open segment with room for so many bytes, and room for them in the store."""
        now = self._now()
        size = self._sizes.get(self._path, 0) if self._file is not None else 0
        full = size and size + coming > self._bounds.max_bytes // SEGMENTS_KEPT
        if full or now - self._opened_at > self._bounds.max_age_s / SEGMENTS_KEPT:
            self._shut()
        if now - self._checked_at > CHECK_AGE_EVERY_S or sum(self._sizes.values()) + coming > self._bounds.max_bytes:
            self._prune(coming)
        if self._file is None:
            path = self._folder / f"spans-{time.time_ns():020d}.jsonl"  # named in the order of their making
            self._file, self._path, self._opened_at = self._open_file(path), path, now
            self._sizes[path] = 0

    def _write(self, line: bytes) -> None:
        """Append a line, or nothing."""
        assert self._file is not None
        size = self._sizes[self._path]
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
                self._file.seek(size)
            self._shut()  # where even that fails, the torn line is the last of its segment
            raise
        self._sizes[self._path] = size + len(line)

    def _prune(self, coming: int) -> None:
        """Remove the oldest segments until `coming` bytes fit and none is too old. The open one is closed for it."""
        self._checked_at = self._now()
        for path in list(self._sizes):
            too_much = sum(self._sizes.values()) + coming > self._bounds.max_bytes
            if not too_much and not self._too_old(path):
                break
            if self._file is not None and path == self._path:
                self._shut()
            path.unlink(missing_ok=True)
            del self._sizes[path]

    def _too_old(self, path: Path) -> bool:
        try:
            return self._now() - path.stat().st_mtime > self._bounds.max_age_s
        except FileNotFoundError:
            return True

    def _shut(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
            if not self._sizes[self._path]:
                with suppress(OSError):
                    self._path.unlink()
                del self._sizes[self._path]

    def _failed(self, error: OSError, count: int) -> None:
        if self._failing_since is None:
            self._failing_since = self.dropped
            why = error.strerror or str(error)
            self._say(f"traces cannot be kept in {self._folder}: {why}; they are dropped until they can")
        self.dropped += count

    def _recovered(self) -> None:
        if self._failing_since is not None:
            lost = self.dropped - self._failing_since
            self._failing_since = None
            self._say(f"traces are kept in {self._folder} again; {lost} spans were dropped")


def segments(folder: Path) -> list[Path]:
    """Return a store's files, the oldest first."""
    return sorted(folder.glob(SEGMENTS))
