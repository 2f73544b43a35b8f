"""The OTLP/gRPC receiver: the services that OpenTelemetry's exporters call.

It runs in threads of its own rather than on an event loop: an exporter of the same process blocks the loop while it
sends its last spans.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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

from expertmesh_client.trace_store import TraceStore
from mesh_wire.serving import PortTaken
from mesh_wire.wire_options import server_options

THREADS = 4


class TraceReceiver(TraceServiceServicer):
    """Puts spans into a store."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    def Export(
        self,
        request: ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> ExportTraceServiceResponse:
        response = ExportTraceServiceResponse()
        if dropped := self._store.add(request.resource_spans):
            response.partial_success.rejected_spans = dropped
            response.partial_success.error_message = "the trace has too many spans"
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
def receiving(store: TraceStore, address: str) -> Iterator[int]:
    """Receive spans into `store` until the block ends. Yields the port.

    Raises:
        PortTaken: the address cannot be listened on.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="expertmesh-otlp") as threads:
        server = grpc.server(threads, options=server_options())
        add_TraceServiceServicer_to_server(TraceReceiver(store), server)  # type: ignore[no-untyped-call]  # generated
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
