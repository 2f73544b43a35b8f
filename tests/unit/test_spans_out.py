"""Spans that are made of sketches, and written as OTLP."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from mesh_wire.errors import Unavailable
from mesh_wire.otlp_out import encoded
from mesh_wire.sketches import Sketch
from mesh_wire.spans_out import Spans
from mesh_wire.trace_context import NOBODY, RANDOM, SAMPLED, Caller, caller_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def sent() -> list[ReadableSpan]:
    return []


@pytest.fixture
def spans(sent: list[ReadableSpan]) -> Spans:
    return Spans(Resource({"service.name": "s"}), InstrumentationScope("expertmesh", "1"), sent.append)


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


def test_what_leaves_is_what_the_library_would_have_written(spans: Spans, sent: list[ReadableSpan]) -> None:
    leave_all_kinds(spans)
    assert len(sent) == 10
    assert encoded(sent) == encode_spans(sent)
    assert encoded([]) == encode_spans([])


def test_stages_stand_under_their_request_and_it_under_its_caller(spans: Spans, sent: list[ReadableSpan]) -> None:
    with request(spans, caller_of(f"00-{TRACE}-{CALLER}-01")) as sketch, sketch.stage("step"):
        pass
    step, root = sent
    assert step.parent is not None
    assert root.parent is not None
    assert step.parent.span_id == root.context.span_id == sketch.span_id
    assert not step.parent.is_remote
    assert (f"{root.parent.span_id:016x}", root.parent.is_remote) == (CALLER, True)
    assert {span.context.trace_id for span in sent} == {int(TRACE, 16)}
    assert root.start_time <= step.start_time <= step.end_time <= root.end_time


def test_a_failure_is_named_and_a_caller_that_leaves_is_none(spans: Spans, sent: list[ReadableSpan]) -> None:
    for error in (Unavailable("gone", reason="ENGINE_DEAD"), KeyError("x"), GeneratorExit(), None):
        sketch = request(spans)
        if error is not None:
            sketch.fail(error)
        sketch.end()
    told = [(span.attributes["rpc.response.status_code"], span.attributes.get("error.type")) for span in sent]
    assert told == [
        ("UNAVAILABLE", "ENGINE_DEAD"),
        ("INTERNAL", "KeyError"),
        ("CANCELLED", "CANCELLED"),
        ("OK", None),
    ]
    assert [span.status.status_code is StatusCode.ERROR for span in sent] == [True, True, False, False]
    assert sent[0].status.description == "gone"
    assert sent[1].status.description is None  # which might be a caller's words


def test_the_environment_s_limits_hold(monkeypatch: pytest.MonkeyPatch, sent: list[ReadableSpan]) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    spans = Spans(Resource({}), InstrumentationScope("s"), sent.append)
    with request(spans) as sketch:
        sketch.describe(lambda: {"b": "long", "c": "longer"})
    [span] = sent
    assert len(span.attributes) == 2
    assert all(len(str(value)) <= 3 for value in span.attributes.values())
