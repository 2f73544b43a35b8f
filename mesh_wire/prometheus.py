"""Metrics for Prometheus: an HTTP endpoint of each process, at `/metrics`."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh_wire.settings import Mesh, RouterSection, ServerSection

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

log = logging.getLogger(__name__)

HOST_VARIABLE, PORT_VARIABLE = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
LAST_PORT = 65535
STOP_WITHIN_S = 5.0  # a scrape that is under way at the end


def exporters(env: Mapping[str, str]) -> set[str]:
    """Return where metrics go by `OTEL_METRICS_EXPORTER`, a list such as `otlp,prometheus`; empty: nowhere."""
    named = {name.strip().lower() for name in env.get("OTEL_METRICS_EXPORTER", "").split(",")} - {""}
    return named - {"none"} if named else {"otlp"}


def address_by(env: Mapping[str, str]) -> str | None:
    """Return where the environment wants metrics to be found, `host:port`; None: it does not say."""
    if "prometheus" not in exporters(env):
        return None
    return f"{env.get(HOST_VARIABLE) or 'localhost'}:{env.get(PORT_VARIABLE) or '9464'}"


def address_of(section: ServerSection, worker: int = 0) -> str | None:
    """Return where one process's metrics are found, `host:port`; None: nowhere.

    Args:
        worker: its number among a router's workers, from 1: worker 1 has the port that the section names, worker 2 the
            next, and so on. 0: it is alone. Port 0 is a free one for each.
    """
    if section.metrics is None or worker <= 1 or section.metrics.endswith(":0"):
        return section.metrics
    host, _, port = section.metrics.rpartition(":")
    return f"{host}:{int(port) + worker - 1}"


def addresses_of(section: ServerSection) -> list[str]:
    """Return the same for all processes of a section, as far as there are ports."""
    if section.metrics is None:
        return []
    host, _, port = section.metrics.rpartition(":")
    ports = range(int(port), min(int(port) + _workers(section), LAST_PORT + 1)) if int(port) else [0]
    return [f"{host}:{each}" for each in ports]


def contradictions(mesh: Mesh) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Yield what in a mesh file keeps its processes from having an address for metrics each, with its place there."""
    sections: list[tuple[tuple[str | int, ...], ServerSection]] = [(("router",), mesh.router)]
    sections += [(("experts", number), expert) for number, expert in enumerate(mesh.experts)]
    taken = Counter(address for _, section in sections for address in (section.listen, *addresses_of(section)))
    for place, section in sections:
        if (last := _last_port(section)) > LAST_PORT:
            yield (*place, "metrics"), f"its last worker would have port {last}"
        for address in addresses_of(section):
            if taken[address] > 1 and not address.endswith(":0"):
                yield (*place, "metrics"), f"{address} is taken in this file: each process needs `metrics` of its own"


def _last_port(section: ServerSection) -> int:
    if section.metrics is None or section.metrics.endswith(":0"):
        return 0
    return int(section.metrics.rpartition(":")[2]) + _workers(section) - 1


def _workers(section: ServerSection) -> int:
    return section.workers if isinstance(section, RouterSection) else 1


@contextmanager
def scraped_at(address: str) -> Iterator["MetricReader"]:
    """Serve what the yielded reader collects at `http://HOST:PORT/metrics` until the block ends.

    Raises:
        OSError: the address cannot be listened on.
    """
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.metrics_core import Metric

    class OneAtATime(CollectorRegistry):
        """Two scrapes at once would each find part of both in the reader, or all of it twice."""

        turn = threading.Lock()

        def collect(self) -> Iterable[Metric]:
            with self.turn:
                return list(super().collect())

    registry = OneAtATime()
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise OSError(f"cannot listen on {address}, for metrics: {error.strerror or error}") from None
    log.info("metrics are at http://%s:%d/metrics", host, server.server_port)
    try:
        yield reader
    finally:
        server.shutdown()
        server.server_close()
        thread.join(STOP_WITHIN_S)
