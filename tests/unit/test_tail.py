"""What is noted of requests that the sampler left out, and for how long."""

import gc
import weakref
from dataclasses import dataclass, field
from itertools import count

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
)

from mesh_wire.sampling import BURST, Wanted
from mesh_wire.sketches import MOST_EVENTS, MOST_SPANS, VENDOR, Sketch, Verdict, with_verdict
from mesh_wire.tail import WAITING, WAITING_S, Tail, key_of
from mesh_wire.telemetry import parent_of

TRACE = 0x0AF7651916CD43DD8448EB211C80319C


@dataclass
class Kept:
    """A tail, what it exports, and its clock."""

    sketches: list[Sketch] = field(default_factory=list)
    now: float = 0.0
    ids: count = field(default_factory=lambda: count(1000))

    def __post_init__(self) -> None:
        self.tail = Tail(Wanted(True, True), lambda: next(self.ids), self.sketches.append, clock=lambda: self.now)

    def begin(self, traceparent: str = "", tracestate: str = "", name: str = "request") -> Sketch:
        context = parent_of(traceparent, tracestate)
        left_out = NonRecordingSpan(SpanContext(TRACE, next(self.ids), False, TraceFlags(0), TraceState()))
        return self.tail.begin(left_out, get_current_span(context), context, name, SpanKind.SERVER, None)


def marked(caller: int) -> tuple[str, str]:
    return f"00-{TRACE:032x}-{caller:016x}-00", f"{VENDOR}={caller:016x}"


def test_headers_stay_unsampled_name_the_span_and_keep_what_others_said() -> None:
    sketch = Kept().begin(f"00-{TRACE:032x}-00000000000000aa-00", "a=1,expertmesh=00000000000000bb,b=2")
    headers = sketch.headers()
    assert headers["traceparent"] == f"00-{TRACE:032x}-{sketch.span_id:016x}-00"
    assert headers["tracestate"] == f"expertmesh={sketch.span_id:016x},a=1,b=2"
    assert not sketch.get_span_context().trace_flags.sampled
    sketch.record.tells = False
    assert sketch.headers()["tracestate"] == "a=1,b=2"


def test_who_is_called_with_a_mark_waits_for_word_and_passes_it_on() -> None:
    kept, told = Kept(), []
    header, mark = marked(5)
    sketch = kept.begin(header, mark)
    child = sketch.record.begin(77, sketch.span_id, "call", SpanKind.CLIENT, {"a": 1})
    kept.tail.given_on(child.headers()["traceparent"], child, told.append)
    child.set_status(StatusCode.ERROR, "no")
    child.end()
    sketch.end()
    assert (kept.sketches, told) == ([], [])  # though it failed: it is not this process's to say
    kept.tail.told(header)
    assert kept.sketches == [child, sketch]
    assert told == [child.headers()["traceparent"]]
    kept.tail.told(header)
    assert len(kept.sketches) == 2


def test_word_that_comes_before_the_end_is_remembered() -> None:
    kept, told = Kept(), []
    header, mark = marked(5)
    sketch = kept.begin(header, mark)
    kept.tail.told(header)
    kept.tail.given_on("late", sketch, told.append)
    sketch.end()
    assert kept.sketches == [sketch]
    assert told == ["late"]


@pytest.mark.parametrize("mark", ["", f"{VENDOR}=00000000000000bb", f"{VENDOR}=x"])
def test_without_its_caller_s_own_mark_a_process_decides_itself(mark: str) -> None:
    kept = Kept()
    sketch = kept.begin(f"00-{TRACE:032x}-0000000000000005-00", mark)
    sketch.set_status(StatusCode.ERROR)
    sketch.end()
    assert kept.sketches == [sketch]
    assert sketch.attributes["expertmesh.kept"] == "error"


def test_two_requests_of_one_caller_s_span_are_both_kept() -> None:
    kept = Kept()
    header, mark = marked(5)
    first, second = kept.begin(header, mark), kept.begin(header, mark)
    first.end()
    kept.tail.told(header)
    second.end()
    assert kept.sketches == [first, second]


def test_those_who_answer_learn_that_it_is_kept() -> None:
    kept, verdict = Kept(), Verdict()
    context = with_verdict(Context(), verdict)
    left_out = NonRecordingSpan(SpanContext(TRACE, 9, False))
    sketch = kept.tail.begin(left_out, get_current_span(context), context, "request", SpanKind.SERVER, None)
    sketch.set_status(StatusCode.ERROR)
    assert not verdict.kept
    sketch.end()
    assert verdict.kept


def test_word_of_what_is_not_known_is_passed_over() -> None:
    kept = Kept()
    for header in ("", "nonsense", f"00-{TRACE:032x}-0000000000000005-00", f"00-{TRACE:032x}-0000000000000005-01"):
        kept.tail.told(header)
    assert kept.sketches == []


@pytest.mark.parametrize("text", ["", "a-b-c-d", "00-1-2", "ff-1-2-00", f"00-{TRACE:032x}-0000000000000005-01"])
def test_no_ids_are_read_from_what_is_none_or_is_sampled(text: str) -> None:
    assert key_of(text) is None


# Bounds


def test_a_flood_of_requests_whose_word_never_comes_is_bounded_and_the_latest_are_held() -> None:
    kept = Kept()
    for caller in range(1, 3 * WAITING + 1):
        kept.begin(*marked(caller)).end()
    assert kept.tail.held == WAITING
    assert len(kept.tail._told_by) == WAITING
    kept.tail.told(marked(1)[0])
    assert not kept.sketches
    kept.tail.told(marked(3 * WAITING)[0])
    assert len(kept.sketches) == 1


def test_what_has_waited_too_long_is_let_go() -> None:
    kept = Kept()
    kept.begin(*marked(1)).end()
    kept.now = WAITING_S + 1
    kept.begin(*marked(2)).end()
    assert kept.tail.held == 1
    kept.tail.told(marked(1)[0])
    assert not kept.sketches


def test_a_request_is_noted_with_so_many_spans_and_events_and_its_own_is_among_them() -> None:
    kept = Kept()
    root = kept.begin()
    for number in range(3 * MOST_SPANS):
        root.record.begin(number + 1, root.span_id, "step", SpanKind.INTERNAL, None).end()
    for _ in range(3 * MOST_EVENTS):
        root.add_event("tick")
    root.set_status(StatusCode.ERROR)
    root.end()
    assert len(kept.sketches) == MOST_SPANS + 1
    assert root in kept.sketches
    assert len(root.events) == MOST_EVENTS


def test_where_everything_fails_not_everything_is_kept() -> None:
    kept = Kept()
    for _ in range(10 * int(BURST)):
        sketch = kept.begin()
        sketch.set_status(StatusCode.ERROR)
        sketch.end()
    assert len(kept.sketches) == BURST
    assert kept.tail.held == 0


def test_nothing_stays_of_what_is_dropped() -> None:
    kept = Kept()
    root = kept.begin()
    late = root.record.begin(7, root.span_id, "late", SpanKind.INTERNAL, None)
    kept.tail.given_on("somebody", root, lambda traceparent: None)
    root.end()
    late.end()
    assert kept.tail.held == 0
    assert (root.record.sketches, root.record.calls, kept.sketches) == ([], [], [])


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_leaves_nothing_to_the_garbage_collector(fails: bool) -> None:
    gone: list[int] = []

    kept = Kept()
    gc.disable()
    try:
        root = kept.begin()
        child = Sketch(root.record, 7, root.span_id, "call", SpanKind.CLIENT, None)
        weakref.finalize(child, gone.append, 1)
        if fails:
            child.set_status(StatusCode.ERROR)
        child.end()
        root.end()
        kept.sketches.clear()
        del child, root
        assert gone == [1]
    finally:
        gc.enable()
