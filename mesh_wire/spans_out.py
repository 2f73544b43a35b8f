"""From sketches to what leaves over OTLP."""

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mesh_wire.sketches import Sketch
from mesh_wire.span_failure import Failure
from mesh_wire.stages import Stage
from mesh_wire.trace_context import SAMPLED

FIRST_TOKEN = "gen_ai.first_token"  # noqa: S105  # an event
_OK = {"rpc.response.status_code": "OK"}
_CALLS = (SpanKind.SERVER, SpanKind.CLIENT)


class Spans:
    """Makes the spans of one process."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, send: Callable[[ReadableSpan], None]) -> None:
        self._resource = resource
        self._scope = scope
        self._send = send
        limits = SpanLimits()  # by the environment
        self._most, self._longest = limits.max_span_attributes, limits.max_span_attribute_length

    def export(self, sketch: Sketch, part: Sketch | Stage) -> None:
        """Send a part of a request, or itself."""
        self._send(self._span(sketch, part))

    def ended(self, sketch: Sketch) -> None:
        """Send a request that is sampled; its parts have been."""
        self.export(sketch, sketch)

    def _span(self, sketch: Sketch, part: Sketch | Stage) -> ReadableSpan:
        flags = TraceFlags(sketch.flags | SAMPLED)  # exporters pass over others
        caller, epoch_ns = sketch.caller, sketch.epoch()
        parent: SpanContext | None = None
        events: list[Event] = []
        if isinstance(part, Stage):
            parent = SpanContext(sketch.trace_id, sketch.span_id, False, flags)
            attributes: Mapping[str, Any] = part.about()
        else:
            attributes = sketch.attributes
            if caller.trace_id:
                parent = caller.span_context()
            if sketch.first_at is not None:
                events.append(Event(FIRST_TOKEN, None, int(sketch.first_at * 1e9) + epoch_ns))
            events += [Event(name, about, int(at * 1e9) + epoch_ns) for name, at, about in sketch.events]
        return ReadableSpan(
            part.name,
            context=SpanContext(sketch.trace_id, part.span_id, False, flags, caller.trace_state()),
            parent=parent,
            resource=self._resource,
            attributes=self._bounded({**attributes, **_ending(part.kind, part.failure)}),
            events=events,
            kind=part.kind,
            status=_status(part.failure),
            start_time=int(part.began * 1e9) + epoch_ns,
            end_time=int(part.ended * 1e9) + epoch_ns,
            instrumentation_scope=self._scope,
        )

    def _bounded(self, attributes: dict[str, Any]) -> Mapping[str, Any]:
        """Keep to `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT` and its like. Without them ours are few, and as they should be."""
        if self._longest is None and (self._most is None or len(attributes) <= self._most):
            return attributes
        return BoundedAttributes(self._most, attributes, immutable=True, max_value_len=self._longest)


def _ending(kind: SpanKind, failure: Failure | None) -> Mapping[str, str]:
    if failure is not None:
        return {"rpc.response.status_code": failure.status, "error.type": failure.kind}
    return _OK if kind in _CALLS else {}


def _status(failure: Failure | None) -> Status:
    if failure is None or not failure.is_fault:
        return Status()
    return Status(StatusCode.ERROR, failure.message)
