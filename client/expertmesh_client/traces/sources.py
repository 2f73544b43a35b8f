"""Where traces are looked for: a folder or a file of OTLP-JSON, or a Jaeger."""

import time
from pathlib import Path
from typing import Protocol

from expertmesh_client.traces.files import Unreadable, files_of, read
from expertmesh_client.traces.jaeger import Jaeger
from expertmesh_client.traces.trace import Trace

OURS, ROUTER = "expertmesh-", "expertmesh-router"
JAEGER_LOOKS_BACK_S = 86_400.0  # its search needs a time to begin at


class Source(Protocol):
    """Gives traces. What had to be passed over meanwhile stands in `notes`."""

    notes: list[str]

    def newest(self, limit: int, since_s: float | None) -> list[Trace]:
        """Return up to `limit` traces of the mesh, the newest first, of the last `since_s` seconds if given."""

    def beginning(self, prefix: str) -> list[Trace]:
        """Return the traces whose ids begin so, in small letters."""


def source_of(place: str, service: str = "") -> Source:
    """Return the source at a place: a URL is a Jaeger's, anything else a path.

    Raises:
        TraceUnavailable: the URL is none.
        OSError: there is nothing at the path.
    """
    if "://" in place:
        return JaegerSource(place, service)
    return FileSource(Path(place))


class FileSource:
    """The files of a folder, or one file."""

    def __init__(self, path: Path) -> None:
        files_of(path)
        self.notes: list[str] = []
        self._path = path

    def newest(self, limit: int, since_s: float | None) -> list[Trace]:
        """See `Source`. Files are read from the newest on, until there are enough traces, and one further: a trace may
        stand in two.

        Raises:
            Unreadable: not one file holds OTLP-JSON.
        """
        since_ns = 0 if since_s is None else time.time_ns() - round(since_s * 1e9)
        traces: dict[str, Trace] = {}
        enough = False
        faults: list[Unreadable] = []
        self.notes.clear()
        for file in files_of(self._path):
            try:
                self.notes += read(file, traces, keep=limit)
            except Unreadable as fault:
                faults.append(fault)
            if enough:
                break
            enough = sum(trace.of_the_mesh for trace in traces.values()) >= limit
        self._tell(faults, traces)
        return _newest(traces, limit, since_ns)

    def beginning(self, prefix: str) -> list[Trace]:
        traces: dict[str, Trace] = {}
        self.notes.clear()
        for file in files_of(self._path):
            try:
                self.notes += read(file, traces, holding=prefix.lstrip("0").encode())
            except Unreadable as fault:
                self.notes.append(str(fault))
        return [trace for trace in traces.values() if trace.trace_id.startswith(prefix)]

    def _tell(self, faults: list[Unreadable], traces: dict[str, Trace]) -> None:
        if faults and not traces:
            raise faults[0]
        self.notes += [str(fault) for fault in faults]


class JaegerSource:
    """A Jaeger, asked for the traces of a service; without one, the router's, or else those of any of ours."""

    def __init__(self, url: str, service: str = "") -> None:
        self.notes: list[str] = []
        self._jaeger = Jaeger(url)
        self._service = service

    def newest(self, limit: int, since_s: float | None) -> list[Trace]:
        since_ns = time.time_ns() - round((JAEGER_LOOKS_BACK_S if since_s is None else since_s) * 1e9)
        traces: dict[str, Trace] = {}
        known = self._jaeger.services()
        searched = self._searched(known)
        self.notes.clear()
        for service in searched:
            traces = {trace.trace_id: trace for trace in self._jaeger.find(service, since_ns=since_ns, limit=limit)}
            if traces:
                break
        if not traces:
            looked_for = ", ".join(searched) or "expertmesh-…"
            back = "" if since_s is not None else f" of the last {JAEGER_LOOKS_BACK_S / 3600:g} h"
            self.notes.append(
                f"searched for spans of {looked_for}{back}; there are some of {', '.join(known) or 'nobody'}"
            )
        return _newest(traces, limit, since_ns)

    def beginning(self, prefix: str) -> list[Trace]:
        if len(prefix) == 32:
            trace = self._jaeger.trace(prefix)
            return [] if trace is None else [trace]
        return [trace for trace in self.newest(1000, None) if trace.trace_id.startswith(prefix)]

    def _searched(self, known: list[str]) -> list[str]:
        """Return the services to search by, in turn."""
        if self._service:
            return [self._service]
        return sorted((name for name in known if name.startswith(OURS)), key=lambda name: (name != ROUTER, name))


def _newest(traces: dict[str, Trace], limit: int, since_ns: int) -> list[Trace]:
    found = (trace for trace in traces.values() if trace.start_ns >= since_ns and trace.of_the_mesh)
    return sorted(found, key=lambda trace: trace.start_ns, reverse=True)[:limit]
