"""A trace store for a machine without Jaeger: it takes spans where Jaeger would, and gives them out as Jaeger does."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from expertmesh_client.trace_query import querying
from expertmesh_client.trace_receiver import receiving
from expertmesh_client.trace_store import TraceStore

OTLP_PORT, QUERY_PORT = 4317, 16686  # where OTLP and Jaeger are looked for by default
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LocalTraces:
    """Where a running store is reached."""

    store: TraceStore
    otlp_endpoint: str  # for OTEL_EXPORTER_OTLP_ENDPOINT
    query_url: str  # for `expertmesh ask --trace --jaeger`

    @property
    def usual(self) -> bool:
        """Whether it stands where `ask --trace` looks without being told."""
        return self.otlp_endpoint.endswith(f":{OTLP_PORT}") and self.query_url.endswith(f":{QUERY_PORT}")


@contextmanager
def local_traces(otlp_port: int = OTLP_PORT, query_port: int = QUERY_PORT) -> Iterator[LocalTraces]:
    """Keep traces until the block ends. A port that is taken is replaced by a free one."""
    store = TraceStore()
    with ExitStack() as life:
        otlp = life.enter_context(receiving(store, f"{HOST}:{_free(otlp_port)}"))
        query = life.enter_context(querying(store, HOST, _free(query_port)))
        yield LocalTraces(store, f"http://{HOST}:{otlp}", f"http://{HOST}:{query}")


def _free(port: int) -> int:
    """Return the port if it can be listened on, else 0. gRPC itself would complain on standard error."""
    try:
        with socket.create_server((HOST, port)):
            return port
    except OSError:
        return 0
