"""A store of traces on disk keeps within its bounds, and goes on whatever becomes of the disk."""

import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.traces.disk_store import (
    CHECK_AGE_EVERY_S,
    SEGMENTS_KEPT,
    Bounds,
    DiskStore,
    disk_store,
    segments,
)
from expertmesh_client.traces.files import FolderInUse
from expertmesh_client.traces.sources import FileSource
from support.traces import batch


def ours(number):
    """An export of one span of the mesh, a trace of its own."""
    made = batch((bytes([number % 256]), b"a", b""), start_ns=number + 1)
    made.scope_spans[0].spans[0].name = "expertmesh.v1.InferenceService/Generate"
    return [made]


LINE = 300  # bytes, about


def kept(folder):
    return FileSource(folder).newest(10_000, None)


def test_spans_are_there_again_after_the_store_is_gone(tmp_path):
    store = DiskStore(tmp_path, Bounds())
    assert store.add(ours(1)) == 0
    assert store.add(ours(2)) == 0
    store.close()

    assert len(kept(tmp_path)) == 2
    again = DiskStore(tmp_path, Bounds())
    again.add(ours(3))
    again.close()
    assert len(kept(tmp_path)) == 3


def test_what_was_added_can_be_read_at_once(tmp_path):
    store = DiskStore(tmp_path, Bounds())
    store.add(ours(1))

    assert len(kept(tmp_path)) == 1
    store.close()


def test_a_segment_is_what_the_collector_writes_a_line_each(tmp_path):
    store = DiskStore(tmp_path, Bounds())
    store.add(ours(1))
    store.close()

    [segment] = segments(tmp_path)
    [line] = segment.read_text().splitlines()
    assert json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] == "01" * 16


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_it_never_grows_beyond_its_size_and_keeps_the_newest(tmp_path_factory, counts):
    folder = tmp_path_factory.mktemp("store")
    bounds = Bounds(max_bytes=SEGMENTS_KEPT * LINE)
    store = DiskStore(folder, bounds)
    for number, count in enumerate(counts):
        export = ours(number)
        for other in range(count - 1):
            export += ours(100 + other)
        dropped = store.add(export)
        assert sum(path.stat().st_size for path in segments(folder)) <= bounds.max_bytes
        assert dropped in (0, count)
    newest_kept = not dropped
    store.close()

    if newest_kept:
        assert (bytes([len(counts) - 1]) * 16).hex() in {trace.trace_id for trace in kept(folder)}


def test_an_export_larger_than_the_store_is_dropped_and_told(tmp_path):
    said = []
    store = DiskStore(tmp_path, Bounds(max_bytes=100), said.append)

    assert store.add(ours(1)) == 1
    assert store.dropped == 1
    assert "larger than the whole store" in said[0]
    store.close()


def test_what_is_too_old_goes(tmp_path):
    now = [time.time()]
    store = DiskStore(tmp_path, Bounds(max_age_s=3600), now=lambda: now[0])
    store.add(ours(1))
    [old] = segments(tmp_path)
    os.utime(old, (now[0] - 3601, now[0] - 3601))
    now[0] += CHECK_AGE_EVERY_S + 1
    store.add(ours(2))
    store.close()

    assert [trace.trace_id for trace in kept(tmp_path)] == ["02" * 16]


def test_what_grew_too_old_while_nothing_ran_goes_at_the_start(tmp_path):
    store = DiskStore(tmp_path, Bounds())
    store.add(ours(1))
    store.close()
    os.utime(segments(tmp_path)[0], (1, 1))

    DiskStore(tmp_path, Bounds()).close()

    assert segments(tmp_path) == []


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine.jsonl").write_text("x" * 10_000)
    store = DiskStore(tmp_path, Bounds(max_bytes=1000))
    for number in range(20):
        store.add(ours(number))
    store.close()

    assert (tmp_path / "mine.jsonl").exists()


class Filling:
    """A disk with so much room: what is written beyond it fails, as on a full one, part of it having been written."""

    def __init__(self, room):
        self.room = room

    def __call__(self, path):
        disk = self
        real = path.open("xb", buffering=0)

        class File:
            def write(self, data):
                if not disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                part = bytes(data[: disk.room])
                disk.room -= len(part)
                return real.write(part)

            def __getattr__(self, name):
                return getattr(real, name)

        return File()


def test_a_full_disk_is_said_once_costs_what_comes_and_no_more(tmp_path):
    said = []
    disk = Filling(int(2.5 * LINE))
    store = DiskStore(tmp_path, Bounds(), said.append, opened=disk)
    lost = sum(store.add(ours(number)) for number in range(10))

    assert lost > 0
    assert store.dropped == lost
    assert said == [f"traces cannot be kept in {tmp_path}: No space left on device; they are dropped until they can"]
    assert len(kept(tmp_path)) == 10 - lost
    assert FileSource(tmp_path).notes == []

    disk.room = 10**6
    assert store.add(ours(11)) == 0
    assert said[1:] == [f"traces are kept in {tmp_path} again; {lost} spans were dropped"]
    store.close()
    assert len(kept(tmp_path)) == 11 - lost


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_the_system_s_own_full_disk_is_met_as_well(tmp_path):
    said = []
    store = DiskStore(tmp_path, Bounds(), said.append, opened=lambda path: io.FileIO("/dev/full", "wb"))

    assert [store.add(ours(number)) for number in range(3)] == [1, 1, 1]
    assert len(said) == 1
    store.close()


def test_a_folder_that_is_removed_is_met_like_a_full_disk(tmp_path):
    said = []
    folder = tmp_path / "gone"
    folder.mkdir()
    store = DiskStore(folder, Bounds(), said.append)
    folder.rmdir()

    assert store.add(ours(1)) == 1
    assert "No such file or directory" in said[0]
    folder.mkdir()
    assert store.add(ours(2)) == 0
    store.close()


def test_a_record_torn_by_a_crash_is_passed_over_and_nothing_is_written_behind_it(tmp_path):
    store = DiskStore(tmp_path, Bounds())
    store.add(ours(1))
    store.add(ours(2))
    store.close()
    [segment] = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-50])

    again = DiskStore(tmp_path, Bounds())
    again.add(ours(3))
    again.close()

    source = FileSource(tmp_path)
    assert sorted(trace.trace_id[:2] for trace in source.newest(10, None)) == ["01", "03"]
    assert source.notes == []


CRASHING = """
import os, sys, pathlib
from expertmesh_client.traces.disk_store import Bounds, disk_store
from support.traces import batch
with disk_store(pathlib.Path(sys.argv[1]), Bounds(), print) as store:
    export = batch((b"z", b"a", b""))
    export.scope_spans[0].spans[0].name = "expertmesh.v1.InferenceService/Generate"
    store.add([export])
    os.kill(os.getpid(), 9)
"""


def test_a_process_that_was_killed_leaves_what_it_had_and_no_lock(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], env=env, check=False)  # noqa: S603  # ours

    assert done.returncode == -9
    with disk_store(tmp_path, Bounds(), print) as store:
        store.add(ours(1))
    assert len(kept(tmp_path)) == 2


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    refused = pytest.raises(FolderInUse, match=f"by process {os.getpid()}")
    with disk_store(tmp_path, Bounds(), print), refused, disk_store(tmp_path, Bounds(), print):
        pass
    with disk_store(tmp_path, Bounds(), print) as store:
        store.add(ours(1))
    assert len(kept(tmp_path)) == 1


def test_an_export_of_nothing_writes_nothing(tmp_path):
    store = DiskStore(tmp_path, Bounds())

    assert store.add([]) == 0
    store.close()
    assert segments(tmp_path) == []
