"""OpenTelemetry for one process: spans and metrics over OTLP/gRPC, set by the standard `OTEL_*` variables.

Off, unless an OTLP endpoint is configured; then nothing is created and nothing is spent. Sampling is the SDK's:
`OTEL_TRACES_SAMPLER=parentbased_traceidratio` with `OTEL_TRACES_SAMPLER_ARG=0.01` keeps one trace in a hundred.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh_wire.errors import MeshError

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

SCOPE = "expertmesh"
_W3C = TraceContextTextMapPropagator()
# Bounds that fit answers of language models, in seconds: from the semantic conventions' advice for GenAI servers.
REQUEST_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
MARGIN_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
CLASSIFY_BOUNDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Instruments:
    """The metrics of a service. Units are in their names' conventions: seconds and counts."""

    request_duration: metrics.Histogram
    time_to_first_token: metrics.Histogram
    time_per_output_token: metrics.Histogram
    in_flight: metrics.UpDownCounter
    refused: metrics.Counter
    decisions: metrics.Counter
    classify_duration: metrics.Histogram
    classified: metrics.Counter
    margin: metrics.Histogram
    reloads: metrics.Counter
    merged: metrics.Counter
    direct_requests: metrics.Counter
    direct_tokens: metrics.Counter


class Telemetry:
    """A process's tracer and instruments. Given to whoever needs it; nothing is global."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter, *, enabled: bool) -> None:
        self.tracer = tracer
        self.meter = meter
        self.enabled = enabled
        self.instruments = Instruments(
            request_duration=_histogram(
                meter, "gen_ai.server.request.duration", "Time from request to last token", REQUEST_BOUNDS
            ),
            time_to_first_token=_histogram(
                meter, "gen_ai.server.time_to_first_token", "Time from request to first token", FIRST_TOKEN_BOUNDS
            ),
            time_per_output_token=_histogram(
                meter, "gen_ai.server.time_per_output_token", "Time per token after the first", PER_TOKEN_BOUNDS
            ),
            in_flight=meter.create_up_down_counter(
                "expertmesh.requests.in_flight", unit="{request}", description="Requests being answered"
            ),
            refused=meter.create_counter(
                "expertmesh.admission.refused", unit="{request}", description="Requests refused for want of a place"
            ),
            decisions=meter.create_counter(
                "expertmesh.route.decisions", unit="{request}", description="Routes, by expert and reason"
            ),
            reloads=meter.create_counter(
                "expertmesh.reloads", unit="{reload}", description="Readings of changed files, by outcome"
            ),
            merged=meter.create_counter(
                "expertmesh.deltas.merged", unit="{delta}", description="Deltas that left with another of their answer"
            ),
            direct_requests=meter.create_counter(
                "expertmesh.direct.requests", unit="{request}", description="Direct requests that ended"
            ),
            direct_tokens=meter.create_counter(
                "expertmesh.direct.tokens", unit="{token}", description="Tokens of direct requests"
            ),
            classify_duration=_histogram(
                meter, "expertmesh.route.classify.duration", "Time from text to scores", CLASSIFY_BOUNDS
            ),
            classified=meter.create_counter(
                "expertmesh.route.classified",
                unit="{prompt}",
                description="Prompts scored, by the strategy intended, who decided, and why another did",
            ),
            margin=meter.create_histogram(
                "expertmesh.route.margin",
                unit="1",
                description="Best score less the second best",
                explicit_bucket_boundaries_advisory=list(MARGIN_BOUNDS),
            ),
        )

    @classmethod
    def off(cls) -> "Telemetry":
        return cls(trace.NoOpTracer(), metrics.NoOpMeter(SCOPE), enabled=False)

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        parent: Context | None = None,
        attributes: "Mapping[str, AttributeValue] | None" = None,
    ) -> Iterator[Span]:
        """A span around a block, current within it. Ends however the block is left; a failure is named on it.

        Args:
            parent: the caller's context; None means the current span.
        """
        if not self.enabled:
            yield trace.INVALID_SPAN
            return
        span = self.tracer.start_span(name, parent, kind, attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            span.end()

    def past_span(
        self, name: str, start_ns: int, end_ns: int, attributes: "Mapping[str, AttributeValue] | None" = None
    ) -> None:
        """Record a stage that is over. Times are nanoseconds since the epoch."""
        if self.enabled:
            self.tracer.start_span(name, None, SpanKind.INTERNAL, attributes, start_time=start_ns).end(end_ns)

    def observe_seconds(self, name: str, description: str, value: Callable[[], float | None]) -> None:
        """Export what a function returns, in seconds, whenever metrics are collected; None is left out."""
        self.observe(name, description, value, unit="s")

    def observe(self, name: str, description: str, value: Callable[[], float | None], *, unit: str = "1") -> None:
        """Export what a function returns whenever metrics are collected; None is left out."""

        def observed(options: metrics.CallbackOptions) -> list[metrics.Observation]:
            found = value()
            return [] if found is None else [metrics.Observation(found)]

        self.meter.create_observable_gauge(name, [observed], unit=unit, description=description)

    def carry(self) -> dict[str, str]:
        """The current span's W3C trace context, as `traceparent` and `tracestate`; empty when off."""
        carrier: dict[str, str] = {}
        if self.enabled:
            _W3C.inject(carrier)
        return carrier


def parent_of(traceparent: str, tracestate: str = "") -> Context:
    """Return the context that a caller's W3C headers name; an empty one where they are absent or malformed."""
    return _W3C.extract({"traceparent": traceparent, "tracestate": tracestate}, Context())


def epoch_offset_ns() -> int:
    """Return what to add to nanoseconds of `time.monotonic` to get a span's: nanoseconds since the epoch."""
    return time.time_ns() - time.monotonic_ns()


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed with the error's reason. A caller's leaving is a status, not a fault."""
    if isinstance(error, MeshError):
        span.set_attribute("rpc.response.status_code", error.code.name)
        span.set_attribute("error.type", error.reason)
        span.set_status(Status(StatusCode.ERROR, error.message))
    elif isinstance(error, Exception):
        span.set_attribute("rpc.response.status_code", "INTERNAL")
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
    else:  # CancelledError, GeneratorExit: the caller left
        span.set_attribute("rpc.response.status_code", "CANCELLED")
        span.set_attribute("error.type", "CANCELLED")


@contextmanager
def exporting(
    service: str, instance: str, *, env: Mapping[str, str] = os.environ, attributes: Mapping[str, str] | None = None
) -> Iterator[Telemetry]:
    """Telemetry of this process for as long as the block runs; what is pending is sent at its end.

    Args:
        service: `service.name`, such as `expertmesh-router`; `OTEL_SERVICE_NAME` wins.
        instance: `service.instance.id`, such as a replica's name.
    """
    anywhere = env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    spans_to = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", anywhere)
    metrics_to = env.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", anywhere)
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if env.get("OTEL_TRACES_EXPORTER") == "none":
        spans_to = None
    if env.get("OTEL_METRICS_EXPORTER") == "none":
        metrics_to = None
    if off or not (spans_to or metrics_to):
        yield Telemetry.off()
        return

    # The SDK is imported only when it is used: it costs a client 100 ms.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {"service.name": env.get("OTEL_SERVICE_NAME", service), "service.instance.id": instance, **(attributes or {})}
    )
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if spans_to:
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=spans_to)))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=metrics_to))] if metrics_to else []
    meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    try:
        yield Telemetry(
            tracers.get_tracer(SCOPE) if spans_to else trace.NoOpTracer(),
            meters.get_meter(SCOPE),
            enabled=bool(spans_to),
        )
    finally:
        tracers.shutdown()
        meters.shutdown()


def _histogram(meter: metrics.Meter, name: str, description: str, bounds: Sequence[float]) -> metrics.Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(bounds)
    )
