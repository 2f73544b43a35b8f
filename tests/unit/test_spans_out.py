"""Spans that are made of sketches, and written as OTLP."""

import logging
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace import Status as SdkStatus
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from mesh_wire.errors import Unavailable
from mesh_wire.sketches import Sketch
from mesh_wire.spans_out import FIRST_TOKEN, Leaving, Spans, Writer
from mesh_wire.stages import Stage
from mesh_wire.trace_context import NOBODY, RANDOM, SAMPLED, Caller, caller_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RESOURCE, SCOPE = Resource({"service.name": "s"}), InstrumentationScope("expertmesh", "1")


class Written(list[Leaving]):
    """What was sent, and as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Sketch, Sketch | Stage]] = []  # what it was made of

    @property
    def spans(self) -> list[Span]:
        return [*Writer(RESOURCE, SCOPE).written(self).resource_spans[0].scope_spans[0].spans]


def attributes_of(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


class Noting(Spans):
    """Keeps what spans are made of."""

    def __init__(self, written: Written) -> None:
        super().__init__(written.append)
        self._noted = written.noted

    def export(self, sketch: Sketch, part: Sketch | Stage) -> None:
        self._noted.append((sketch, part))
        super().export(sketch, part)


def readable(sketch: Sketch, part: Sketch | Stage) -> ReadableSpan:
    """The same span as the library has it."""
    flags, epoch_ns = TraceFlags(sketch.flags | SAMPLED), sketch.epoch()
    parent, events = None, []
    if isinstance(part, Stage):
        parent, attributes = SpanContext(sketch.trace_id, sketch.span_id, False, flags), part.about()
    else:
        attributes = part.attributes
        parent = sketch.caller.span_context() if sketch.caller.trace_id else None
        told = [(FIRST_TOKEN, part.first_at, None)] if part.first_at is not None else []
        events = [Event(name, about, int(at * 1e9) + epoch_ns) for name, at, about in (*told, *part.events)]
    failure, ending = part.failure, {}
    if failure is not None:
        ending = {"rpc.response.status_code": failure.status, "error.type": failure.kind}
    elif part.kind in (SpanKind.SERVER, SpanKind.CLIENT):
        ending = {"rpc.response.status_code": "OK"}
    failed = failure is not None and failure.is_fault
    return ReadableSpan(
        part.name,
        context=SpanContext(sketch.trace_id, part.span_id, False, flags, sketch.caller.trace_state()),
        parent=parent,
        resource=RESOURCE,
        attributes={**attributes, **ending},
        events=events,
        kind=part.kind,
        status=SdkStatus(StatusCode.ERROR, failure.message) if failed else SdkStatus(),
        start_time=int(part.began * 1e9) + epoch_ns,
        end_time=int(part.ended * 1e9) + epoch_ns,
        instrumentation_scope=SCOPE,
    )


@pytest.fixture
def sent() -> Written:
    return Written()


@pytest.fixture
def spans(sent: Written) -> Spans:
    return Noting(sent)


def request(spans: Spans, caller: Caller = NOBODY) -> Sketch:
    sketch = Sketch(spans, int(TRACE, 16), SAMPLED | RANDOM, caller, "request", SpanKind.SERVER, {"a": 1})
    sketch.kept = True
    return sketch


def leave_all_kinds(spans: Spans) -> None:
    """Send requests with everything that one can have."""
    for caller in (NOBODY, caller_of(f"00-{TRACE}-{CALLER}-01", "a=1,b=2"), Caller(1, 2, 1, remote=False)):
        with request(spans, caller) as sketch:
            about = {"s": "ß", "b": True, "i": -7, "f": 0.5}
            sketch.note(("earlier", sketch.began - 1, sketch.began, lambda about=about: about, None))
            with sketch.stage("call", SpanKind.CLIENT, lambda: {"several": ["x", "y"], "none": ()}):
                sketch.first_token(sketch.began + 1)
            sketch.events = [("tick", sketch.began, {"n": 1 << 40}), ("tock", sketch.began, {})]
    failing = request(spans)
    failing.fail(Unavailable("gone", reason="ENGINE_DEAD"))
    failing.end()


def test_what_leaves_is_what_the_library_would_have_written(spans: Spans, sent: Written) -> None:
    leave_all_kinds(spans)
    assert len(sent) == 10
    assert Writer(RESOURCE, SCOPE).written(sent) == encode_spans([readable(*noted) for noted in sent.noted])


def test_stages_stand_under_their_request_and_it_under_its_caller(spans: Spans, sent: Written) -> None:
    with request(spans, caller_of(f"00-{TRACE}-{CALLER}-01")) as sketch, sketch.stage("step"):
        pass
    step, root = sent.spans
    assert step.parent_span_id == root.span_id == sketch.span_id.to_bytes(8, "big")
    assert root.parent_span_id.hex() == CALLER
    remote = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    assert (bool(step.flags & remote), bool(root.flags & remote)) == (False, True)
    assert {span.trace_id.hex() for span in (step, root)} == {TRACE}
    assert root.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano <= root.end_time_unix_nano


def test_a_failure_is_named_and_a_caller_that_leaves_is_none(spans: Spans, sent: Written) -> None:
    for error in (Unavailable("gone", reason="ENGINE_DEAD"), KeyError("x"), GeneratorExit(), None):
        sketch = request(spans)
        if error is not None:
            sketch.fail(error)
        sketch.end()
    told = [(found["rpc.response.status_code"], found.get("error.type")) for found in map(attributes_of, sent.spans)]
    assert told == [
        ("UNAVAILABLE", "ENGINE_DEAD"),
        ("INTERNAL", "KeyError"),
        ("CANCELLED", "CANCELLED"),
        ("OK", None),
    ]
    status = [span.status for span in sent.spans]
    assert [one.code == Status.STATUS_CODE_ERROR for one in status] == [True, True, False, False]
    assert status[0].message == "gone"
    assert status[1].message == ""  # which might be a caller's words


def test_the_environment_s_limits_hold(monkeypatch: pytest.MonkeyPatch, spans: Spans, sent: Written) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    with request(spans) as sketch:
        sketch.describe(lambda: {"b": "long", "c": "longer"})
    [span] = sent.spans
    assert len(span.attributes) == 2
    assert all(len(str(value)) <= 3 for value in attributes_of(span).values())


def test_a_span_that_cannot_be_written_takes_no_other_with_it(
    spans: Spans, sent: Written, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (1, object(), 2):
        sketch = request(spans)
        sketch.set_attribute("value", value)
        sketch.end()
    with caplog.at_level(logging.ERROR):
        assert [attributes_of(span)["value"] for span in sent.spans] == [1, 2]
    assert "could not be written" in caplog.text
