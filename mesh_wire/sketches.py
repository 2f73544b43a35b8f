"""Spans of requests that the sampler left out, noted cheaply, until it is known whether they are wanted after all.

A span of the SDK costs its process about four times what a sketch does, and of a hundred traces that the sampler leaves
out, one may be wanted. So what would have been spans are sketches, and those that are wanted become spans at the end.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, get_value, set_value
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.util.types import AttributeValue

VENDOR = "expertmesh"  # our key in `tracestate`
MOST_SPANS = 64  # of one request in one process; what comes after them is not noted
MOST_EVENTS = 128  # of one span, as the SDK has it by default
_VERDICT = "expertmesh-verdict"


class Verdict:
    """Where it is written down whether a request's trace is kept, for those who answer it."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept = False


def with_verdict(parent: Context, verdict: Verdict) -> Context:
    """Return a caller's context for a request whose verdict somebody wants to know."""
    return set_value(_VERDICT, verdict, parent)


class Sketch(Span):
    """What would have been a span. It is one to those who write on it."""

    __slots__ = ("attributes", "ended_ns", "events", "kind", "name", "parent_id", "record", "span_id", "start_ns")

    def __init__(
        self,
        record: "Record",
        span_id: int,
        parent_id: int,
        name: str,
        kind: SpanKind,
        attributes: "Mapping[str, AttributeValue] | None",
        start_ns: int | None = None,
    ) -> None:
        self.record = record
        self.span_id = span_id
        self.parent_id = parent_id  # 0: none
        self.name = name
        self.kind = kind
        self.attributes: dict[str, Any] = dict(attributes) if attributes else {}
        self.events: list[tuple[str, int, Any]] = []
        self.start_ns = start_ns or time.time_ns()
        self.ended_ns = 0  # 0: under way

    def end(self, end_time: int | None = None) -> None:
        if not self.ended_ns:
            self.ended_ns = end_time or time.time_ns()
            self.record.ended(self)

    def get_span_context(self) -> SpanContext:
        record = self.record
        return SpanContext(record.trace_id, self.span_id, False, TraceFlags(record.flags), record.tracestate)

    def headers(self) -> dict[str, str]:
        """Return the W3C trace context for those who are called: not sampled, and, marked, that word may follow.

        The mark is the caller's span id under our key, so that one that somebody else carried on is told from one of
        the caller itself: who is called then waits for the word.
        """
        record = self.record
        carried = {"traceparent": f"00-{record.trace_id:032x}-{self.span_id:016x}-{record.flags:02x}"}
        marks = [f"{VENDOR}={self.span_id:016x}"] if record.tells else []
        if record.tracestate:
            marks.append(record.tracestate.to_header())
        if marks:
            carried["tracestate"] = ",".join(marks)
        return carried

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.attributes.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        if len(self.events) < MOST_EVENTS:
            self.events.append((name, timestamp or time.time_ns(), attributes))

    def update_name(self, name: str) -> None:
        self.name = name

    def is_recording(self) -> bool:
        return not self.ended_ns

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if not isinstance(status, Status):
            status = Status(status, description)
        if status.status_code is StatusCode.ERROR:
            self.record.failures[self.span_id] = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.add_event("exception", {"exception.type": type(exception).__qualname__, **(attributes or {})}, timestamp)

    def first_token_s(self) -> float | None:
        """Return the seconds from its start to the first token; None: there was none."""
        return next((max(0, at - self.start_ns) / 1e9 for name, at, _ in self.events if name.endswith("token")), None)


class Record:
    """The sketches of one request in one process."""

    __slots__ = (
        "calls",
        "dropped",
        "ended",
        "failures",
        "flags",
        "kept",
        "new_id",
        "parent",
        "root",
        "sketches",
        "tells",
        "trace_id",
        "tracestate",
        "verdict",
        "waits",
    )

    def __init__(
        self,
        own: SpanContext,
        parent: SpanContext,
        context: Context | None,
        new_id: Callable[[], int],
        ended: Callable[[Sketch], None],
    ) -> None:
        """Args:
        own: what the sampler made for the first span.
        parent: the caller's; an invalid one where there is none.
        context: the caller's whole context.
        ended: is told of each sketch that ends.
        """
        self.trace_id = own.trace_id
        self.flags = int(own.trace_flags) & ~TraceFlags.SAMPLED
        self.parent = parent if parent.is_valid else None
        marked = parent.trace_state.get(VENDOR) if parent.is_valid else None
        self.waits = marked == f"{parent.span_id:016x}"  # for the caller's word
        self.tells = True  # those whom it calls, whether to keep theirs
        self.tracestate: TraceState = parent.trace_state.delete(VENDOR) if marked else parent.trace_state
        self.verdict: Verdict | None = get_value(_VERDICT, context) if context else None  # type: ignore[assignment]  # ours
        self.new_id = new_id
        self.ended = ended
        self.kept = False
        self.dropped = False
        self.root: Sketch | None = None
        self.sketches: list[Sketch] = []  # those that have ended
        self.failures: dict[int, Status] = {}  # span id -> why
        self.calls: list[tuple[str, Callable[[str], None]]] = []  # traceparent given on, and whom to tell

    @property
    def failed(self) -> bool:
        return bool(self.failures)

    def begin(
        self,
        span_id: int,
        parent_id: int,
        name: str,
        kind: SpanKind,
        attributes: "Mapping[str, AttributeValue] | None",
        start_ns: int | None = None,
    ) -> Sketch:
        """Note the beginning of a span; `start_ns` is in nanoseconds since the epoch, None: now."""
        return Sketch(self, span_id, parent_id, name, kind, attributes, start_ns)


def span_of(sketch: Sketch, resource: "Resource", scope: "InstrumentationScope") -> "ReadableSpan":
    """Return the span that a sketch would have been, as one that was sampled: exporters pass over others."""
    from opentelemetry.sdk.trace import Event, ReadableSpan

    record = sketch.record
    sampled = TraceFlags(record.flags | TraceFlags.SAMPLED)
    parent: SpanContext | None = None
    if sketch.parent_id:
        remote = record.parent is not None and record.parent.span_id == sketch.parent_id
        parent = SpanContext(record.trace_id, sketch.parent_id, remote, sampled, record.tracestate)
    return ReadableSpan(
        sketch.name,
        context=SpanContext(record.trace_id, sketch.span_id, False, sampled, record.tracestate),
        parent=parent,
        resource=resource,
        attributes=sketch.attributes,
        events=[Event(name, attributes, at) for name, at, attributes in sketch.events],
        kind=sketch.kind,
        status=record.failures.get(sketch.span_id, Status()),
        start_time=sketch.start_ns,
        end_time=sketch.ended_ns,
        instrumentation_scope=scope,
    )
