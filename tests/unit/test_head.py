"""What the sampler says of a request is what the SDK's own would say."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

from mesh_wire.head import LOW, head_of
from mesh_wire.trace_context import LEFT_OUT_THERE, NOBODY, Caller

SAMPLERS = (
    ALWAYS_ON,
    ALWAYS_OFF,
    DEFAULT_ON,
    DEFAULT_OFF,
    TraceIdRatioBased(0.01),
    TraceIdRatioBased(1e-7),
    ParentBased(TraceIdRatioBased(0.3)),
    ParentBased(ALWAYS_OFF, remote_parent_not_sampled=TraceIdRatioBased(0.5)),
)


@given(st.integers(1, (1 << 128) - 1), st.sampled_from([None, 0, 1, 3]), st.sampled_from(SAMPLERS))
def test_the_decision_is_the_sdk_s(trace_id: int, flags: int | None, sampler: Sampler) -> None:
    caller, context = NOBODY, Context()
    if flags is not None:
        caller = Caller(trace_id, 5, flags)
        context = set_span_in_context(NonRecordingSpan(caller.span_context()), context)
    expected = sampler.should_sample(context, trace_id, "request", SpanKind.SERVER, {}).decision
    takes, bound = head_of(sampler)
    taken = takes(caller, trace_id, "request", SpanKind.SERVER, {})
    assert taken == (expected is Decision.RECORD_AND_SAMPLE)
    if flags is None and trace_id & LOW >= bound:  # then nobody asks
        assert not taken


@pytest.mark.parametrize("ratio", [0.01, 0.25, 1.0])
def test_the_edge_of_a_ratio_is_where_the_sdk_has_it(ratio: float) -> None:
    takes, bound = head_of(ParentBased(TraceIdRatioBased(ratio)))
    assert bound == TraceIdRatioBased.get_bound_for_rate(ratio)
    assert takes(NOBODY, bound - 1, "", SpanKind.SERVER, {})
    assert takes(NOBODY, bound, "", SpanKind.SERVER, {}) == (ratio == 1.0)  # which is beyond 64 bits then


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_caller_left_out_is_sampled_only_where_everything_is(sampler: Sampler) -> None:
    assert head_of(sampler).takes(LEFT_OUT_THERE, 1, "request", SpanKind.SERVER, {}) == (sampler is ALWAYS_ON)


class ByName(Sampler):
    """Somebody's own, which calls itself what the SDK's are called."""

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *_: Any, **__: Any
    ) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE if name == "wanted" else Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "AlwaysOnSampler"


def test_another_sampler_is_asked_itself() -> None:
    nothing: Mapping[str, str] = {}
    takes = head_of(ByName()).takes
    assert takes(NOBODY, 1, "wanted", SpanKind.SERVER, nothing)
    assert not takes(NOBODY, 1, "other", SpanKind.SERVER, nothing)
