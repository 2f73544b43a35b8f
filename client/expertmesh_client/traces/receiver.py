"""The OTLP/gRPC receiver: the services that OpenTelemetry's exporters call.

It runs in threads of its own rather than on an event loop: an exporter of the same process blocks the loop while it
sends its last spans.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from mesh_wire.serving import PortTaken
from mesh_wire.wire_options import server_options

THREADS = 4


class Store(Protocol):
    """Keeps spans. Called from several threads."""

    def add(self, batches: Sequence[ResourceSpans], /) -> int:
        """Keep an export's spans; returns how many were dropped."""


class TraceReceiver(TraceServiceServicer):
    """Puts spans into stores, each of which gets all."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores

    def Export(
        self,
        request: ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> ExportTraceServiceResponse:
        response = ExportTraceServiceResponse()
        if dropped := max(store.add(request.resource_spans) for store in self._stores):
            response.partial_success.rejected_spans = dropped
            response.partial_success.error_message = "the trace has too many spans, or the disk is full"
        return response


class MetricsSink(MetricsServiceServicer):
    """Accepts metrics, so that exporters do not complain, and keeps none."""

    def Export(
        self,
        request: ExportMetricsServiceRequest,
        context: grpc.ServicerContext,
    ) -> ExportMetricsServiceResponse:
        return ExportMetricsServiceResponse()


@contextmanager
def receiving(address: str, *stores: Store) -> Iterator[int]:
    """Receive spans into `stores` until the block ends. Yields the port.

    Raises:
        PortTaken: the address cannot be listened on.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="expertmesh-otlp") as threads:
        server = grpc.server(threads, options=server_options())
        add_TraceServiceServicer_to_server(TraceReceiver(stores), server)  # type: ignore[no-untyped-call]  # generated
        add_MetricsServiceServicer_to_server(MetricsSink(), server)  # type: ignore[no-untyped-call]  # generated
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTaken(f"cannot listen on {address}: {error}") from None
        server.start()
        try:
            yield port
        finally:
            server.stop(grace=None).wait()
