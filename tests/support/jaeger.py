"""A Jaeger, as far as its query API v3 over HTTP goes, written after the published definition, not after our client.

Sources: `QueryService`, `TraceQueryParameters`, `GRPCGatewayWrapper` and `GRPCGatewayError` in jaegertracing's
jaeger-idl, proto/api_v3/query_service.proto. How the HTTP gateway of jaegertracing/jaeger reads parameters: the times
of a search are required and in RFC 3339, durations are Go's, what is malformed is answered 400 with a message, nothing
found 404.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
GO_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")
BOOLS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
OF_A_TRACE = {"start_time": RFC3339, "end_time": RFC3339, "raw_traces": None}
OF_A_SEARCH = {
    "query.service_name": None,
    "query.operation_name": None,
    "query.attributes": None,
    "query.start_time_min": RFC3339,
    "query.start_time_max": RFC3339,
    "query.duration_min": GO_DURATION,
    "query.duration_max": GO_DURATION,
    "query.search_depth": re.compile(r"-?\d+"),
    "query.num_traces": re.compile(r"-?\d+"),
    "query.raw_traces": None,
}


@dataclass
class Jaeger:
    """What it has, and what it was asked."""

    url: str = ""
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # trace id → resourceSpans
    searches: list[dict[str, str]] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)  # trace ids asked for
    chunked: bool = False  # answer with an object for each trace, as the definition foresees
    broken: tuple[int, str] | None = None  # a status and a message to answer everything with

    def add(self, otlp: dict[str, Any]) -> None:
        for entry in otlp["resourceSpans"]:
            trace_id = entry["scopeSpans"][0]["spans"][0]["traceId"]
            self.traces.setdefault(trace_id, []).append(entry)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
        if self.broken is not None:
            return _error(*self.broken)
        match path.removeprefix("/api/v3/").split("/"):
            case ["services"]:
                return 200, [
                    {"services": sorted({_service(entry) for found in self.traces.values() for entry in found})}
                ]
            case ["traces"]:
                return self._find(query)
            case ["traces", trace_id]:
                return self._get(trace_id, query)
        return _error(404, "404 page not found")

    def _get(self, trace_id: str, query: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
        self.gets.append(trace_id)
        if fault := _fault(query, OF_A_TRACE):
            return _error(400, fault)
        if not re.fullmatch("[0-9a-fA-F]{1,32}", trace_id):
            return _error(400, f"malformed parameter trace_id: {trace_id}")
        return self._found([trace_id.lower()])

    def _find(self, query: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
        self.searches.append(query)
        if fault := _fault(query, OF_A_SEARCH):
            return _error(400, fault)
        if "query.start_time_min" not in query or "query.start_time_max" not in query:
            return _error(400, "query.start_time_min and query.start_time_max are required")
        service = query.get("query.service_name", "")
        depth = int(query.get("query.search_depth") or query.get("query.num_traces") or 100)
        ids = [each for each, found in self.traces.items() if any(service in ("", _service(entry)) for entry in found)]
        return self._found(ids[:depth])

    def _found(self, ids: list[str]) -> tuple[int, list[dict[str, Any]]]:
        found = [self.traces[each] for each in ids if each in self.traces]
        if not found:
            return _error(404, "No traces found")
        if self.chunked:
            return 200, [{"result": {"resourceSpans": entries}} for entries in found]
        return 200, [{"result": {"resourceSpans": [entry for entries in found for entry in entries]}}]


@contextmanager
def jaeger() -> Iterator[Jaeger]:
    """Run one until the block ends."""
    there = Jaeger()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            status, bodies = there.answer(asked.path, dict(parse_qsl(asked.query, strict_parsing=bool(asked.query))))
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status == 200 else "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write("\n".join(map(json.dumps, bodies)).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        there.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield there
        finally:
            server.shutdown()
            thread.join()


def _fault(query: dict[str, str], known: dict[str, Any]) -> str:
    for name, text in query.items():
        if name not in known:
            return f"no parameter is called {name}"  # stricter than Jaeger, which would not look at it
        if name.endswith("raw_traces") and text not in BOOLS:
            return f"malformed parameter {name}"
        if known[name] is not None and not known[name].fullmatch(text):
            return f"malformed parameter {name}"
    return ""


def _service(entry: dict[str, Any]) -> str:
    return entry["resource"]["attributes"][0]["value"]["stringValue"]


def _error(status: int, message: str) -> tuple[int, list[dict[str, Any]]]:
    return status, [{"error": {"httpCode": status, "message": message}}]
