"""Traces for a machine without Jaeger: spans are taken where Jaeger would, and given out as Jaeger does."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from expertmesh_client.traces.files import FolderInUse
from expertmesh_client.traces.memory_store import MemoryStore
from expertmesh_client.traces.query_server import querying
from expertmesh_client.traces.receiver import Store, receiving

__all__ = ["FolderInUse", "Keeping", "LocalTraces", "local_traces"]

OTLP_PORT, QUERY_PORT = 4317, 16686  # where OTLP and Jaeger are looked for by default
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LocalTraces:
    """Where a running store is reached."""

    store: MemoryStore  # the newest traces
    folder: Path | None  # where they are kept beyond that
    otlp_endpoint: str  # for OTEL_EXPORTER_OTLP_ENDPOINT
    query_url: str  # for `expertmesh ask --trace --jaeger` and `expertmesh trace --from`

    @property
    def usual(self) -> bool:
        """Whether it stands where the commands look without being told."""
        return self.otlp_endpoint.endswith(f":{OTLP_PORT}") and self.query_url.endswith(f":{QUERY_PORT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where and how long traces are kept on disk, and who is told when they cannot be."""

    folder: Path
    max_bytes: int
    max_age_s: float
    say: Callable[[str], None]


@contextmanager
def local_traces(
    otlp_port: int = OTLP_PORT, query_port: int = QUERY_PORT, keeping: Keeping | None = None
) -> Iterator[LocalTraces]:
    """Keep traces until the block ends: the newest in memory, and all on disk where that is wished for.

    A port that is taken is replaced by a free one.

    Raises:
        FolderInUse, OSError: nothing can be kept there.
    """
    memory = MemoryStore()
    stores: list[Store] = [memory]
    with ExitStack() as life:
        if keeping is not None:
            from expertmesh_client.traces.disk_store import Bounds, disk_store

            bounds = Bounds(max_bytes=keeping.max_bytes, max_age_s=keeping.max_age_s)
            stores.append(life.enter_context(disk_store(keeping.folder, bounds, keeping.say)))
        otlp = life.enter_context(receiving(f"{HOST}:{_free(otlp_port)}", *stores))
        query = life.enter_context(querying(memory, HOST, _free(query_port)))
        folder = keeping.folder if keeping is not None else None
        yield LocalTraces(memory, folder, f"http://{HOST}:{otlp}", f"http://{HOST}:{query}")


def _free(port: int) -> int:
    """Return the port if it can be listened on, else 0. gRPC itself would complain on standard error."""
    try:
        with socket.create_server((HOST, port)):
            return port
    except OSError:
        return 0
