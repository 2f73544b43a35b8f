"""Who called, read from W3C headers as OpenTelemetry's own propagator reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh_wire.trace_context import LEFT_OUT, NOBODY, Verdict, caller_of, current_caller, mark_of, traceparent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
HEADERS = st.one_of(
    st.text(max_size=70),
    st.from_regex(r"[ \t]?[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?[ \t]?", fullmatch=True),
    st.from_regex(r"(00|ff)-0{31}[01]-0{15}[01]-0[0-3]", fullmatch=True),
)
STATES = st.one_of(
    st.just(""), st.text(max_size=40), st.from_regex(r"([a-z]{1,3}=[a-z0-9]{1,3},?){1,4}", fullmatch=True)
)


@given(HEADERS, STATES)
def test_a_caller_is_whom_the_propagator_reads(traceparent: str, tracestate: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": tracestate}
    context = TraceContextTextMapPropagator().extract(headers, Context())
    read = get_current_span(context).get_span_context()
    caller = caller_of(traceparent, tracestate)
    assert (caller.trace_id, caller.span_id) == (read.trace_id, read.span_id)
    if read.is_valid:
        assert caller.flags == read.trace_flags
        assert caller.span_context() == read
        assert caller.tracestate == read.trace_state.to_header()


@pytest.mark.parametrize(
    ("tracestate", "will_tell", "others"),
    [
        ("", False, ""),
        (mark_of(SPAN), True, ""),
        (f"a=1,{mark_of(SPAN)},b=2", True, "a=1,b=2"),
        (mark_of("00f067aa0ba902b7"), False, ""),
        ("a=1", False, "a=1"),
    ],
)
def test_a_mark_counts_where_it_is_its_caller_s_own_and_is_not_passed_on(
    tracestate: str, will_tell: bool, others: str
) -> None:
    caller = caller_of(HEADER, tracestate)
    assert (caller.will_tell, caller.tracestate) == (will_tell, others)


def test_what_a_caller_left_out_has_no_name() -> None:
    caller = caller_of(LEFT_OUT)
    assert caller.left_out
    assert not caller.trace_id
    assert not NOBODY.left_out


def test_a_verdict_is_looked_for_though_nobody_called() -> None:
    verdict = Verdict()
    for header in ("", "nonsense", HEADER):
        assert caller_of(header, "", verdict).verdict is verdict
    assert NOBODY.verdict is None


def test_a_library_s_user_is_the_caller_where_they_trace() -> None:
    assert current_caller() is NOBODY
    context = SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1), TraceState([("a", "1")]))
    with use_span(NonRecordingSpan(context)):
        caller = current_caller()
    assert caller.span_context() == context
    assert caller.traceparent == HEADER == traceparent_of(context.trace_id, context.span_id, 1)
