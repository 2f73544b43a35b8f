"""Traces from files of OTLP-JSON: a local store's, the OpenTelemetry Collector's, what Jaeger's API answered.

A file is one object, a list of them, or one a line. What cannot be read is named and passed over.
"""

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from expertmesh_client.traces.trace import Trace, gathered

ENDINGS = (".jsonl", ".json")
SEGMENTS = "spans-*.jsonl"  # what a local store writes
SPARE = 1000  # traces held beyond what is asked for before the oldest are let go


class FolderInUse(Exception):
    """Another process keeps its traces in that folder."""


class Unreadable(Exception):
    """A file holds no OTLP-JSON."""


def files_of(path: Path) -> list[Path]:
    """Return the files to read at a path, those written to last first.

    Raises:
        OSError: there is nothing, or it may not be read.
    """
    if not path.is_dir():
        path.stat()
        return [path]
    files = []
    for file in path.iterdir():
        if file.suffix in ENDINGS and not file.name.startswith("."):
            try:
                files.append((file.stat().st_mtime_ns, file.name, file))
            except FileNotFoundError:  # a store's oldest, gone meanwhile
                continue
    return [file for *_, file in sorted(files, reverse=True)]


def read(file: Path, traces: dict[str, Trace], *, holding: bytes = b"", keep: int | None = None) -> list[str]:
    """Put a file's spans into `traces`; returns what must be said of it.

    Args:
        holding: only lines with these bytes in them are looked at.
        keep: traces to hold at a time, besides some to spare; the oldest are let go. None: all.

    Raises:
        Unreadable: nothing in it is OTLP-JSON.
    """
    good, bad, first_fault = 0, 0, ""
    try:
        for number, data in _documents(file, holding):
            try:
                if isinstance(data, ValueError):
                    raise data
                gathered(_pieces(data), traces)
                good += 1
            except ValueError as error:
                bad += 1
                first_fault = first_fault or f"line {number}: {error}"
            if keep is not None and len(traces) > keep + SPARE:
                _let_go(traces, keep)
    except FileNotFoundError:
        return []
    if bad and not good and not holding:
        raise Unreadable(f"{file} is not OTLP-JSON: {first_fault}")
    lines = "1 line was" if bad == 1 else f"{bad} lines were"
    return [f"{file}: {lines} passed over; {first_fault}"] if bad else []


def _documents(file: Path, holding: bytes) -> Iterator[tuple[int, Any]]:
    """Yield what a file holds with its line: data, or the error of what is none.

    A last line without an end is being written, or was torn off by a crash: it is none, and no error.
    """
    with file.open("rb") as opened:
        first, lines = opened.readline(), cast(Iterable[bytes], opened)
        try:
            yield 1, _parsed(first)
        except ValueError as error:  # not a line each: one object over many, or nothing of ours
            rest = opened.read()
            try:
                yield 1, _parsed(first + rest)
                return
            except ValueError:
                if rest or not file.match(SEGMENTS):
                    yield 1, error
            lines = BytesIO(rest)
        for number, line in enumerate(lines, 2):
            if not line.strip() or holding not in line.lower():
                continue
            try:
                yield number, _parsed(line)
            except ValueError as error:
                if line.endswith(b"\n"):
                    yield number, error


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _pieces(data: Any) -> Iterator[Any]:
    """Yield the OTLP-JSON objects in what a file may hold: one, Jaeger's answer around one, or a list of them."""
    for one in data if isinstance(data, list) else [data]:
        if isinstance(one, dict) and "resourceSpans" not in one:
            if "result" in one:
                one = one["result"]
            elif "data" in one:
                raise ValueError("it is Jaeger's own JSON; its API at /api/v3/traces gives OTLP-JSON")
        yield one


def _let_go(traces: dict[str, Trace], keep: int) -> None:
    for trace in sorted(traces.values(), key=lambda trace: trace.start_ns)[: len(traces) - keep]:
        del traces[trace.trace_id]
