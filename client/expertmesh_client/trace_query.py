"""The traces of a store over HTTP, as Jaeger's query API v3 gives them: `GET /api/v3/traces/{trace_id}`.

Source: `GetTrace`, `GRPCGatewayWrapper` and `GRPCGatewayError` in jaegertracing/jaeger-idl,
proto/api_v3/query_service.proto.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from expertmesh_client.otlp_json import to_json
from expertmesh_client.trace_store import TraceStore

ONE_TRACE = "/api/v3/traces/"


def answer(store: TraceStore, path: str) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body that answer `GET path`."""
    if not path.startswith(ONE_TRACE) or "/" in path[len(ONE_TRACE) :]:
        return _error(404, "not found")
    name = path[len(ONE_TRACE) :]
    try:
        if not 1 <= len(name) <= 32:
            raise ValueError("an id has up to 32 hexadecimal digits")
        trace_id = int(name, 16).to_bytes(16)
    except ValueError as error:
        return _error(400, f"malformed parameter trace_id: {error}")
    traces = store.trace(trace_id)
    if traces is None:
        return _error(404, "No traces found")
    return 200, {"result": to_json(traces)}


@contextmanager
def querying(store: TraceStore, host: str, port: int) -> Iterator[int]:
    """Answer queries, in threads of their own, until the block ends. Yields the port.

    Raises:
        OSError: the port cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(store, urlsplit(self.path).path)
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


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"httpCode": status, "message": message}}
