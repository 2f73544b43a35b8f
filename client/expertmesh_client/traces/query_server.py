"""The newest traces over HTTP, as Jaeger's query API v3 gives them: one by its id, a search, the services.

Source: `QueryService`, `GRPCGatewayWrapper` and `GRPCGatewayError` in jaegertracing/jaeger-idl,
proto/api_v3/query_service.proto; parameters as Jaeger's own HTTP gateway names them.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from expertmesh_client.traces.memory_store import MemoryStore
from expertmesh_client.traces.otlp_json import to_json

ALL_TRACES, SERVICES = "/api/v3/traces", "/api/v3/services"
DEPTH = 100  # traces that a search returns where it names no number
_SEARCH = {"service_name", "start_time_min", "start_time_max", "search_depth", "num_traces", "raw_traces"}


def answer(store: MemoryStore, path: str, query: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body that answer `GET path?query`."""
    try:
        if path == SERVICES:
            return 200, {"services": sorted({_service(batch) for _, trace in _traces(store) for batch in trace})}
        if path == ALL_TRACES:
            return _wrapped(_found(store, query))
        if path.startswith(f"{ALL_TRACES}/") and "/" not in path[len(ALL_TRACES) + 1 :]:
            return _wrapped(store.trace(_trace_id(path[len(ALL_TRACES) + 1 :])))
    except ValueError as error:
        return _error(400, str(error))
    return _error(404, "not found")


@contextmanager
def querying(store: MemoryStore, host: str, port: int) -> Iterator[int]:
    """Answer queries, in threads of their own, until the block ends. Yields the port.

    Raises:
        OSError: the port cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            status, body = answer(store, asked.path, dict(parse_qsl(asked.query)))
            written = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing: standard error is the user's."""

    with ThreadingHTTPServer((host, port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="expertmesh-traces", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _found(store: MemoryStore, query: Mapping[str, str]) -> list[ResourceSpans]:
    """Return the traces that a search finds, those that spoke last first.

    Raises:
        ValueError: a parameter is missing, malformed, or one that is not looked at here: to pass over it would answer
            with more than was asked for.
    """
    wanted = {name.removeprefix("query."): text for name, text in query.items()}
    if unknown := sorted(wanted.keys() - _SEARCH):
        raise ValueError(f"this store does not search by {', '.join(unknown)}")
    if "start_time_min" not in wanted or "start_time_max" not in wanted:
        raise ValueError("query.start_time_min and query.start_time_max are required")
    from_ns, to_ns = (_time_ns(wanted, name) for name in ("start_time_min", "start_time_max"))
    try:
        depth = int(wanted.get("search_depth", wanted.get("num_traces", DEPTH)))
    except ValueError as error:
        raise ValueError(f"malformed parameter query.search_depth: {error}") from None
    service = wanted.get("service_name", "")
    found: list[ResourceSpans] = []
    for _, trace in _traces(store):
        if depth > 0 and _matches(trace, service, from_ns, to_ns):
            found += trace
            depth -= 1
    return found


def _traces(store: MemoryStore) -> Iterator[tuple[bytes, list[ResourceSpans]]]:
    for trace_id in reversed(store.trace_ids):
        yield trace_id, store.trace(trace_id)


def _matches(trace: list[ResourceSpans], service: str, from_ns: int, to_ns: int) -> bool:
    """Whether a span of that service started in that time."""
    return any(
        from_ns <= span.start_time_unix_nano < to_ns
        for batch in trace
        if service in ("", _service(batch))
        for scope in batch.scope_spans
        for span in scope.spans
    )


def _service(batch: ResourceSpans) -> str:
    named = (pair.value.string_value for pair in batch.resource.attributes if pair.key == "service.name")
    return next(named, "")


def _trace_id(name: str) -> bytes:
    if not 1 <= len(name) <= 32:
        raise ValueError("malformed parameter trace_id: an id has up to 32 hexadecimal digits")
    try:
        return int(name, 16).to_bytes(16)
    except ValueError as error:
        raise ValueError(f"malformed parameter trace_id: {error}") from None


def _time_ns(query: Mapping[str, str], name: str) -> int:
    try:
        return round(datetime.fromisoformat(query[name]).timestamp() * 1e9)
    except ValueError as error:
        raise ValueError(f"malformed parameter query.{name}: {error}") from None


def _wrapped(batches: list[ResourceSpans]) -> tuple[int, dict[str, Any]]:
    return (200, {"result": to_json(batches)}) if batches else _error(404, "No traces found")


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"httpCode": status, "message": message}}
