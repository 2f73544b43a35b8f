"""OpenTelemetry for one process: spans and metrics over OTLP/gRPC, set by the standard `OTEL_*` variables.

Off, unless an OTLP endpoint or an address for Prometheus is configured; then nothing is created and nothing is spent.
Sampling is the SDK's: `OTEL_TRACES_SAMPLER=parentbased_traceidratio` with `OTEL_TRACES_SAMPLER_ARG=0.01` keeps one
trace in a hundred, and `tail` those beside them that failed or were the slowest.
"""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import getrandbits

from opentelemetry import metrics
from opentelemetry.trace import SpanKind

from mesh_wire.awaiting import Awaiting
from mesh_wire.head import Head, head_of
from mesh_wire.long_streams import stride_of
from mesh_wire.metrics import Labels, Values, instruments_of, observed
from mesh_wire.prometheus import exporters, scraped_at
from mesh_wire.sampling import wanted
from mesh_wire.sketches import Keeper, Sketch
from mesh_wire.tail import Tail
from mesh_wire.trace_context import NOBODY, RANDOM, SAMPLED, Caller, traceparent_of
from mesh_wire.untraced import NAMELESS, NONE, RETOLD, SERVER, UNTRACED, Attributes, LeftOut, Untraced

SCOPE = "expertmesh"


@dataclass(frozen=True, slots=True)
class Tracing:
    """How requests are traced."""

    head: Head  # the sampler's decision
    sampled: Keeper
    tail: Tail | None = None  # keeps some of what the sampler leaves out; None: nobody does


class Telemetry:
    """A process's tracing and instruments. Given to whoever needs it; nothing is global."""

    def __init__(self, meter: metrics.Meter, tracing: Tracing | None = None, *, token_event_stride: int = 0) -> None:
        """Args:
        tracing: None: nothing is traced.
        token_event_stride: tokens between two events on a stream's span, at first; 0: none. See `long_streams`.
        """
        self.tail = tracing.tail if tracing is not None else None
        self.token_event_stride = token_event_stride
        self.meter = meter
        self.enabled = tracing is not None
        self.instruments = instruments_of(meter)
        self._tracing = tracing

    @classmethod
    def off(cls) -> "Telemetry":
        return cls(metrics.NoOpMeter(SCOPE))

    def begin(
        self,
        name: str,
        kind: SpanKind,
        caller: Caller = NOBODY,
        about: Attributes = NONE,
        *,
        tells: bool = True,
        retold: bool = False,
    ) -> Untraced:
        """Begin to trace a request, or a call. Whoever has it ends it: by a `with` block, or `end`.

        Args:
            about: attributes, which nobody changes any more.
            tells: whether those who are called can get word of what becomes of the trace; see `tail`.
            retold: whether it can be told of when it has ended; if so, and if its trace has no name that others know,
                nothing need be noted, and `RETOLD` is returned.
        """
        tracing = self._tracing
        if tracing is None:
            return UNTRACED
        takes, bound = tracing.head
        if trace_id := caller.trace_id:
            flags, asks = caller.flags & RANDOM, True
        else:  # what is left out gets a name when somebody needs it
            flags, low = RANDOM, getrandbits(64)
            if asks := low < bound:
                trace_id = getrandbits(64) << 64 | low or 1
        if asks and takes(caller, trace_id, name, kind, about):
            sketch = Sketch(tracing.sampled, trace_id, flags | SAMPLED, caller, name, kind, about)
            sketch.kept, sketch.tells = True, False
            return sketch
        if tracing.tail is None:
            if not caller.trace_id and kind is SERVER:
                return NAMELESS
            trace_id = trace_id or getrandbits(128) or 1
            return LeftOut(trace_id, traceparent_of(trace_id, getrandbits(64) or 1, flags), caller.tracestate)
        if retold and not trace_id:
            return RETOLD
        sketch = Sketch(tracing.tail, trace_id, flags, caller, name, kind, about)
        if not tells:
            sketch.tells = False
        if caller.will_tell:
            tracing.tail.awaited.begun(caller.key, sketch)
        return sketch

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

    def await_word(self, key: Hashable, one: Awaiting) -> None:
        """Have a request told whether its caller keeps its trace."""
        if self.tail is not None:
            self.tail.awaited.begun(key, one)

    def keep(self, key: Hashable, traceparent: str) -> None:
        """Keep a trace, because a caller says so."""
        if self.tail is not None:
            self.tail.awaited.told(key, traceparent)


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
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from mesh_wire.spans_out import Exporter, Spans, Writer

    resource = Resource.create(
        {"service.name": env.get("OTEL_SERVICE_NAME", service), "service.instance.id": instance, **(attributes or {})}
    )
    tracing: Tracing | None = None
    with ExitStack() as life:
        if spans_to:
            tracers = TracerProvider(resource=resource, shutdown_on_exit=False)  # reads what the environment says
            processor = BatchSpanProcessor(Exporter(spans_to, Writer(resource, InstrumentationScope(SCOPE))))
            life.callback(processor.shutdown)
            spans = Spans(processor.on_end)
            kept = wanted(env)
            tail = Tail(kept, spans.export) if kept else None
            tracing = Tracing(head_of(tracers.sampler), spans, tail)
        readers: list[MetricReader] = [life.enter_context(scraped_at(metrics_at))] if metrics_at else []
        if metrics_to:
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=metrics_to)))
        meter: metrics.Meter = metrics.NoOpMeter(SCOPE)
        if readers:  # without any, the SDK's would still count everything, for nobody, dearer than an unsampled trace
            meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
            life.callback(meters.shutdown)
            meter = meters.get_meter(SCOPE)
        yield Telemetry(meter, tracing, token_event_stride=stride_of(env))
