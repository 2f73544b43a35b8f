"""A collector: OpenTelemetry's own services, in a thread of its own, so that a test's event loop may block on it."""

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto

from mesh_wire.telemetry import Telemetry, exporting


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    name: str
    kind: str  # such as SERVER
    service: str
    instance: str
    trace_id: str
    span_id: str
    parent_id: str  # empty: none
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool
    message: str
    events: list[str]


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps all that arrives."""

    def __init__(self) -> None:
        self.port = 0
        self.spans: list[Seen] = []
        self.metrics: defaultdict[str, list[Any]] = defaultdict(list)  # name -> data points
        self.raw = b""  # every export, to be searched

    def Export(self, request: Any, context: object) -> Any:
        self.raw += request.SerializeToString()
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            for metric in (m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics):
                self.metrics[metric.name] += getattr(metric, metric.WhichOneof("data")).data_points
            return metrics_service_pb2.ExportMetricsServiceResponse()
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            self.spans += [_seen(span, resource) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def env(self) -> dict[str, str]:
        """What makes `exporting` send everything here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}"}

    def named(self, name: str, service: str = "") -> list[Seen]:
        """The spans of that name, and that service if one is given, by time."""
        found = [span for span in self.spans if span.name == name and service in ("", span.service)]
        return sorted(found, key=lambda span: span.start_ns)

    def tree(self, parent_id: str) -> list[Any]:
        """What stands under a span: each child's service and name, with its own children where it has any."""
        children = sorted((s for s in self.spans if s.parent_id == parent_id), key=lambda s: (s.start_ns, s.end_ns))
        found: list[Any] = []
        for child in children:
            label = f"{child.service.removeprefix('expertmesh-')} {child.name} {child.kind}"
            below = self.tree(child.span_id)
            found.append((label, below) if below else label)
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect until the block ends."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def telemetry_to(collector: Collector, **env: str) -> Iterator[tuple[Telemetry, Telemetry]]:
    """The telemetry of a router and of an expert. All is sent when the block ends.

    Args:
        env: further `OTEL_*` variables.
    """
    with ExitStack() as life, patch.dict(os.environ, env):
        settings = {**collector.env, **env}
        expert = life.enter_context(exporting("expertmesh-expert", "a", env=settings))
        router = life.enter_context(exporting("expertmesh-router", "r", env=settings))
        yield router, expert


def _seen(span: SpanProto, resource: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=SpanProto.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        service=resource["service.name"],
        instance=resource["service.instance.id"],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        failed=span.status.code == 2,
        message=span.status.message,
        events=[event.name for event in span.events],
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return _plain(pair.value)


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
