"""OpenTelemetry for one process: spans and metrics over OTLP/gRPC, set by the standard `OTEL_*` variables.

Off, unless an OTLP endpoint or an address for Prometheus is configured; then nothing is created and nothing is spent.
Sampling is the SDK's: `OTEL_TRACES_SAMPLER=parentbased_traceidratio` with `OTEL_TRACES_SAMPLER_ARG=0.01` keeps one
trace in a hundred, and `tail` those beside them that failed or were the slowest.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh_wire.errors import MeshError
from mesh_wire.long_streams import stride_of
from mesh_wire.metrics import Labels, Values, instruments_of, observed
from mesh_wire.prometheus import exporters, scraped_at
from mesh_wire.sampling import wanted
from mesh_wire.sketches import Sketch, span_of
from mesh_wire.tail import Tail, none_of

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

SCOPE = "expertmesh"
_W3C = TraceContextTextMapPropagator()
_NOT_RECORDED = nullcontext(trace.INVALID_SPAN)


class Telemetry:
    """A process's tracer and instruments. Given to whoever needs it; nothing is global."""

    def __init__(
        self,
        tracer: trace.Tracer,
        meter: metrics.Meter,
        *,
        enabled: bool,
        tail: Tail | None = None,
        token_event_stride: int = 0,
    ) -> None:
        """Args:
        tail: keeps some of what the sampler leaves out; None: nobody does.
        token_event_stride: tokens between two events on a stream's span, at first; 0: none. See `long_streams`.
        """
        self.tail = tail
        self.token_event_stride = token_event_stride
        self.tracer = tracer
        self.meter = meter
        self.enabled = enabled
        self.instruments = instruments_of(meter)

    @classmethod
    def off(cls) -> "Telemetry":
        return cls(trace.NoOpTracer(), metrics.NoOpMeter(SCOPE), enabled=False)

    def span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        parent: Context | None = None,
        attributes: "Mapping[str, AttributeValue] | None" = None,
    ) -> AbstractContextManager[Span]:
        """A span around a block, current within it. Ends however the block is left; a failure is named on it.

        Args:
            parent: the caller's context; None means the current span.
        """
        return self._span(name, kind, parent, attributes) if self.enabled else _NOT_RECORDED

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, parent: Context | None, attributes: "Mapping[str, AttributeValue] | None"
    ) -> Iterator[Span]:
        around = trace.get_current_span(parent)
        if parent is None and self._leaves_out(around):
            yield around
            return
        span = self._started(around, name, kind, parent, attributes, None)
        token = attach(trace.set_span_in_context(span))
        try:
            yield span
        except BaseException as error:
            if span.is_recording():
                fail(span, error)
            raise
        finally:
            detach(token)
            span.end()

    def start_span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        parent: Context | None = None,
        attributes: "Mapping[str, AttributeValue] | None" = None,
        start_ns: int | None = None,
    ) -> Span:
        """Return a span that has begun, and is not current. Whoever has it ends it.

        Within a span that is not recorded it is that span itself: the sampler would leave it out as well, for the
        price of a sampled one's half.

        Args:
            parent: the caller's context; None means the current span.
            start_ns: nanoseconds since the epoch; None: now.
        """
        around = trace.get_current_span(parent)
        if parent is None and self._leaves_out(around):
            return around
        return self._started(around, name, kind, parent, attributes, start_ns)

    def _leaves_out(self, around: Span) -> bool:
        """Whether nothing is recorded within a span, since it is not itself."""
        return self.tail is None and not around.is_recording() and none_of(around.get_span_context())

    def _started(
        self,
        around: Span,
        name: str,
        kind: SpanKind,
        parent: Context | None,
        attributes: "Mapping[str, AttributeValue] | None",
        start_ns: int | None,
    ) -> Span:
        if type(around) is Sketch:  # `isinstance` asks the metaclass, which takes as long as the sketch
            record = around.record
            return record.begin(record.new_id(), around.span_id, name, kind, attributes, start_ns)
        span = self.tracer.start_span(name, parent, kind, attributes, start_time=start_ns)
        if self.tail is None or not none_of(span.get_span_context()):
            return span
        return self.tail.begin(span, around, parent, name, kind, attributes)

    def past_span(
        self, name: str, start_ns: int, end_ns: int, attributes: "Mapping[str, AttributeValue] | None" = None
    ) -> None:
        """Record a stage that is over. Times are nanoseconds since the epoch."""
        if self.enabled:
            span = self.start_span(name, attributes=attributes, start_ns=start_ns)
            if span is not trace.get_current_span():
                span.end(end_ns)

    def observe_seconds(self, name: str, description: str, value: Callable[[], float | None]) -> None:
        """Export what a function returns, in seconds, whenever metrics are collected; None is left out."""
        self.observe(name, description, value, unit="s")

    def observe(self, name: str, description: str, value: Callable[[], float | None], *, unit: str = "1") -> None:
        """Export what a function returns whenever metrics are collected; None is left out."""

        def values() -> list[tuple[float, Labels]]:
            return [] if (found := value()) is None else [(found, {})]

        self.observe_each(name, description, values, unit=unit)

    def observe_each(self, name: str, description: str, values: Values, *, unit: str = "1") -> None:
        """Export what a function returns, with labels, whenever metrics are collected; see `metrics.observed`."""
        self.meter.create_observable_gauge(name, [observed(values)], unit=unit, description=description)

    def observe_total(self, name: str, description: str, values: Values, *, unit: str) -> None:
        """Export likewise what only ever grows."""
        self.meter.create_observable_counter(name, [observed(values)], unit=unit, description=description)

    def carry(self) -> dict[str, str]:
        """The current span's W3C trace context, as `traceparent` and `tracestate`; empty when off."""
        if not self.enabled:
            return {}
        span = trace.get_current_span()
        return span.headers() if type(span) is Sketch else _headers(span.get_span_context())

    def given_on(self, carried: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """Remember that a trace context went to somebody, whom `tell` gives word where the trace is to be kept."""
        if self.tail is not None and "traceparent" in carried:
            self.tail.given_on(carried["traceparent"], trace.get_current_span(), tell)

    def keep(self, traceparent: str) -> None:
        """Keep a trace, because a caller says so; see `tail`."""
        if self.tail is not None:
            self.tail.told(traceparent)


def _headers(context: trace.SpanContext) -> dict[str, str]:
    """Return the W3C headers that name a span: as the propagator writes them, in a third of its time."""
    if not context.is_valid:
        return {}
    headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers


def parent_of(traceparent: str, tracestate: str = "") -> Context:
    """Return the context that a caller's W3C headers name; an empty one where they are absent or malformed."""
    if not traceparent:
        return Context()
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
    service: str,
    instance: str,
    *,
    env: Mapping[str, str] = os.environ,
    attributes: Mapping[str, str] | None = None,
    metrics_at: str | None = None,
) -> Iterator[Telemetry]:
    """Telemetry of this process for as long as the block runs; what is pending is sent at its end.

    Args:
        service: `service.name`, such as `expertmesh-router`; `OTEL_SERVICE_NAME` wins.
        instance: `service.instance.id`, such as a replica's name.
        metrics_at: where Prometheus finds the metrics, `host:port`, beside OTLP; None: nowhere.

    Raises:
        OSError: that address cannot be listened on.
    """
    anywhere = env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    spans_to = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", anywhere)
    metrics_to = env.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", anywhere)
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if env.get("OTEL_TRACES_EXPORTER") == "none":
        spans_to = None
    if "otlp" not in exporters(env):
        metrics_to = None
    if off or not (spans_to or metrics_to or metrics_at):
        yield Telemetry.off()
        return

    # The SDK is imported only when it is used: it costs a client 100 ms.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    resource = Resource.create(
        {"service.name": env.get("OTEL_SERVICE_NAME", service), "service.instance.id": instance, **(attributes or {})}
    )
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tail: Tail | None = None
    if spans_to:
        spans = BatchSpanProcessor(OTLPSpanExporter(endpoint=spans_to))
        tracers.add_span_processor(spans)
        if kept := wanted(env):
            new_id, scope = tracers.id_generator.generate_span_id, InstrumentationScope(SCOPE)
            tail = Tail(kept, new_id, lambda sketch: spans.on_end(span_of(sketch, resource, scope)))
    with ExitStack() as life:
        life.callback(tracers.shutdown)
        readers: list[MetricReader] = [life.enter_context(scraped_at(metrics_at))] if metrics_at else []
        if metrics_to:
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=metrics_to)))
        meter: metrics.Meter = metrics.NoOpMeter(SCOPE)
        if readers:  # without any, the SDK's would still count everything, for nobody, dearer than an unsampled trace
            meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
            life.callback(meters.shutdown)
            meter = meters.get_meter(SCOPE)
        yield Telemetry(
            tracers.get_tracer(SCOPE) if spans_to else trace.NoOpTracer(),
            meter,
            enabled=bool(spans_to),
            tail=tail,
            token_event_stride=stride_of(env),
        )
