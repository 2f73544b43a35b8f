"""The sampler's decision on a request, at its first span in this process: all parts of it follow.

The SDK's samplers by ratio are asked for every request, and mostly say no; so their rule is followed here, for a
fraction of their price. Any other sampler is asked itself.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

from mesh_wire.trace_context import SAMPLED, Caller
from mesh_wire.untraced import Attributes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

Takes = Callable[[Caller, int, str, SpanKind, Attributes], bool]  # caller, trace id, name, kind, attributes
LOW = (1 << 64) - 1  # of a trace id, which the ratio looks at
_FOLLOWING = re.compile(
    r"ParentBased\{root:(.+),remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    r"localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler\}"
)


class Head(NamedTuple):
    """Who decides."""

    takes: Takes
    bound: int  # of a new trace, `takes` need not be asked if its id's lower half is not below: it is left out


def head_of(sampler: "Sampler") -> Head:
    """Return what decides as a sampler does."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased

    described = sampler.get_description()
    following = _FOLLOWING.fullmatch(described)
    root = following[1] if following else described
    ratios = {ALWAYS_ON.get_description(): 1.0, ALWAYS_OFF.get_description(): 0.0}
    if found := re.fullmatch(r"TraceIdRatioBased\{(.+)\}", root):
        ratios[root] = float(found[1])
    if root not in ratios or type(sampler).__module__ != TraceIdRatioBased.__module__:
        return Head(_asking(sampler), LOW + 1)
    bound = TraceIdRatioBased.get_bound_for_rate(ratios[root])

    def by_ratio(caller: Caller, trace_id: int, *_: Any) -> bool:
        return trace_id & LOW < bound and (not caller.left_out or bound > LOW)  # or else only a part would be there

    def by_caller(caller: Caller, trace_id: int, *_: Any) -> bool:
        if caller.trace_id or caller.left_out:
            return bool(caller.flags & SAMPLED)
        return trace_id & LOW < bound

    return Head(by_caller if following else by_ratio, bound)


def _asking(sampler: "Sampler") -> Takes:
    from opentelemetry.sdk.trace.sampling import Decision

    def takes(caller: Caller, trace_id: int, name: str, kind: SpanKind, attributes: Attributes) -> bool:
        if caller.left_out:  # which no sampler has a word for
            return False
        context = Context()
        if caller.trace_id:
            context = set_span_in_context(NonRecordingSpan(caller.span_context()), context)
        return sampler.should_sample(context, trace_id, name, kind, attributes).decision is Decision.RECORD_AND_SAMPLE

    return takes
