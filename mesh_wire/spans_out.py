"""From sketches to OTLP: written where it lies in the message, by whatever thread exports.

The SDK's own way makes an object of its own of each span, and copies that into the message: three times as dear.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from mesh_wire.sketches import Sketch
from mesh_wire.span_failure import Failure
from mesh_wire.stages import Stage
from mesh_wire.trace_context import SAMPLED
from mesh_wire.untraced import NONE, Attributes

log = logging.getLogger(__name__)

FIRST_TOKEN = "gen_ai.first_token"  # noqa: S105  # an event
_OK = {"rpc.response.status_code": "OK"}
_CALLS = (SpanKind.SERVER, SpanKind.CLIENT)
_KINDS = {kind: Span.SpanKind.Value(f"SPAN_KIND_{kind.name}") for kind in SpanKind}
_HAS_REMOTE = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _HAS_REMOTE | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


Event = tuple[str, int, Attributes]  # name, ns since the epoch, attributes


class Leaving:
    """A span on its way to the exporter, which is all that sees it but for the SDK's processor.

    It waits there for seconds, so it holds plain values: what a request still refers to at its end keeps the messages
    alive that it came in, each in memory of its own, and those that come next find none that the processor's caches
    know. That made every request dearer by 3 %, with one in a hundred sampled.
    """

    __slots__ = (
        "attributes",
        "end_ns",
        "events",
        "failure",
        "kind",
        "name",
        "parent_id",
        "parent_is_remote",
        "span_id",
        "start_ns",
        "trace_id",
        "tracestate",
    )
    context = SpanContext(1, 1, False, TraceFlags(SAMPLED))  # what the processor looks at: whether it is sampled

    def __init__(self, sketch: Sketch, part: Sketch | Stage) -> None:
        caller, epoch_ns = sketch.caller, sketch.epoch()
        self.trace_id = sketch.trace_id
        self.span_id = part.span_id
        self.name = part.name
        self.kind = part.kind
        self.start_ns = int(part.began * 1e9) + epoch_ns
        self.end_ns = int(part.ended * 1e9) + epoch_ns
        self.tracestate = caller.tracestate
        self.failure = part.failure
        self.events: list[Event] = []
        self.parent_is_remote = False
        if isinstance(part, Stage):
            self.parent_id = sketch.span_id  # 0: it has none
            attributes: Mapping[str, Any] = part.about()
        else:
            self.parent_id = caller.span_id
            self.parent_is_remote = bool(caller.span_id) and caller.remote
            attributes = part.attributes
            if part.first_at is not None:
                self.events.append((FIRST_TOKEN, int(part.first_at * 1e9) + epoch_ns, NONE))
            self.events += [(name, int(at * 1e9) + epoch_ns, about) for name, at, about in part.events]
        self.attributes: Mapping[str, Any] = {**attributes, **_ending(part.kind, part.failure)}


class Spans:
    """Sends the spans of one process."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        """`send` gets each as a `Leaving`."""
        self._send = send

    def export(self, sketch: Sketch, part: Sketch | Stage) -> None:
        """Send a part of a request, or itself."""
        self._send(Leaving(sketch, part))

    def ended(self, sketch: Sketch) -> None:
        """Send a request that is sampled; its parts have been."""
        self.export(sketch, sketch)


class Writer:
    """Writes spans of one resource and one scope, as we make them: without links, nothing dropped of them."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._frame = encode_spans(
            [ReadableSpan("", context=Leaving.context, resource=resource, instrumentation_scope=scope)]
        )
        del self._frame.resource_spans[0].scope_spans[0].spans[:]
        limits = SpanLimits()  # by the environment
        self._most, self._longest = limits.max_span_attributes, limits.max_span_attribute_length

    def written(self, spans: Sequence[Leaving]) -> ExportTraceServiceRequest:
        """Return the message that carries them."""
        request = ExportTraceServiceRequest()
        request.CopyFrom(self._frame)
        into = request.resource_spans[0].scope_spans[0].spans
        for span in spans:
            try:
                self._write(span, into.add())
            except Exception:  # the others are sent all the same
                log.exception("a span could not be written")
                del into[-1]
        return request

    def _write(self, span: Leaving, to: Span) -> None:
        to.trace_id = span.trace_id.to_bytes(16, "big")
        to.span_id = span.span_id.to_bytes(8, "big")
        to.name = span.name
        to.kind = _KINDS[span.kind]
        to.start_time_unix_nano = span.start_ns
        to.end_time_unix_nano = span.end_ns
        to.flags = _REMOTE if span.parent_is_remote else _HAS_REMOTE
        if span.tracestate:
            to.trace_state = span.tracestate
        if span.parent_id:
            to.parent_span_id = span.parent_id.to_bytes(8, "big")
        for name, at_ns, about in span.events:
            _write_all(about, to.events.add(name=name, time_unix_nano=at_ns).attributes)
        _write_all(self._bounded(span.attributes), to.attributes)
        to.status.SetInParent()  # though it be unset
        if span.failure is not None and span.failure.is_fault:
            to.status.code = Status.STATUS_CODE_ERROR
            if span.failure.message:
                to.status.message = span.failure.message

    def _bounded(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep to `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT` and its like. Without them ours are few, and as they should be."""
        if self._longest is None and (self._most is None or len(attributes) <= self._most):
            return attributes
        return BoundedAttributes(self._most, dict(attributes), immutable=True, max_value_len=self._longest)


class Exporter(OTLPSpanExporter):
    """The library's exporter, but for how spans become a message."""

    def __init__(self, endpoint: str, writer: Writer) -> None:
        super().__init__(endpoint=endpoint)
        self._writer = writer

    def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
        return self._writer.written(data)


def _ending(kind: SpanKind, failure: Failure | None) -> Mapping[str, str]:
    if failure is not None:
        return {"rpc.response.status_code": failure.status, "error.type": failure.kind}
    return _OK if kind in _CALLS else {}


def _write_all(attributes: Mapping[str, Any], to: Any) -> None:
    for key, value in attributes.items():
        _write_value(value, to.add(key=key).value)


def _write_value(value: Any, to: AnyValue) -> None:
    if isinstance(value, str):
        to.string_value = value
    elif isinstance(value, bool):  # which is an int as well
        to.bool_value = value
    elif isinstance(value, int):
        to.int_value = value
    elif isinstance(value, float):
        to.double_value = value
    else:
        to.array_value.SetInParent()  # though it be empty
        for one in value:
            _write_value(one, to.array_value.values.add())
