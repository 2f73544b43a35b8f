"""Spans as data, apart from the message that brought them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


class Kind(Enum):
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    OTHER = "other"


_KINDS = {
    trace_pb2.Span.SPAN_KIND_INTERNAL: Kind.INTERNAL,
    trace_pb2.Span.SPAN_KIND_SERVER: Kind.SERVER,
    trace_pb2.Span.SPAN_KIND_CLIENT: Kind.CLIENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span. Times are nanoseconds since the epoch, on the clock of the process that ran it."""

    span_id: str
    parent_id: str = ""  # empty: the root
    name: str
    kind: Kind = Kind.INTERNAL
    service: str = ""
    start_ns: int
    end_ns: int
    failed: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    events: tuple[str, ...] = ()  # their names

    @property
    def seconds(self) -> float:
        """How long it took; 0 where a clock was set back meanwhile."""
        return max(0, self.end_ns - self.start_ns) / 1e9


def spans_of(traces: trace_pb2.TracesData) -> list[Span]:
    """Return a trace's spans in the order of their starts. One that was sent twice is there once."""
    found = {span.span_id: span for span in _each(traces)}
    return sorted(found.values(), key=lambda span: (span.start_ns, -span.end_ns))


def _each(traces: trace_pb2.TracesData) -> Iterator[Span]:
    for resource in traces.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=_KINDS.get(span.kind, Kind.OTHER),
                    service=service,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    attributes=_attributes(span.attributes),
                    events=tuple(event.name for event in span.events),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    """Return attributes as text; lists and the like are left out."""
    written: dict[str, str] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value", "bool_value"):
            written[pair.key] = str(getattr(pair.value, kind))
    return written
