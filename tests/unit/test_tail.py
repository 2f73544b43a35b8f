"""What is noted of requests that the sampler left out, and for how long."""

import gc
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from mesh_wire.awaiting import WAITING, WAITING_S
from mesh_wire.errors import Unavailable
from mesh_wire.head import head_of
from mesh_wire.sampling import BURST, Wanted
from mesh_wire.sketches import MOST_SPANS, Sketch
from mesh_wire.stages import Stage
from mesh_wire.tail import Tail
from mesh_wire.telemetry import Telemetry, Tracing
from mesh_wire.trace_context import LEFT_OUT_THERE, VENDOR, Verdict, caller_of, caller_of_start
from mesh_wire.untraced import CLIENT, SERVER, nothing

TRACE = 0x0AF7651916CD43DD8448EB211C80319C


GONE = Unavailable("gone", reason="ENGINE_DEAD")


@dataclass
class Kept:
    """A tail, what it exports, and its clock."""

    parts: list[Sketch | Stage] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.tail = Tail(Wanted(True, True), lambda sketch, part: self.parts.append(part), clock=lambda: self.now)

    def begin(
        self, traceparent: str = "", tracestate: str = "", name: str = "request", verdict: Verdict | None = None
    ) -> Sketch:
        caller = caller_of(traceparent, tracestate, verdict)
        sketch = Sketch(self.tail, TRACE, 0, caller, name, SERVER, {})
        if caller.will_tell:
            self.tail.awaited.begun(caller.key, sketch)
        return sketch


@dataclass
class Told:
    """A way to somebody who was called: what word came there."""

    kept: list[tuple[str, int]] = field(default_factory=list)

    def keep(self, traceparent: str, stream_id: int = 0) -> None:
        self.kept.append((traceparent, stream_id))


def marked(caller: int) -> tuple[str, str]:
    return f"00-{TRACE:032x}-{caller:016x}-00", f"{VENDOR}={caller:016x}"


def test_headers_stay_unsampled_name_the_span_and_keep_what_others_said() -> None:
    sketch = Kept().begin(f"00-{TRACE:032x}-00000000000000aa-00", "a=1,expertmesh=00000000000000bb,b=2")
    own = f"00-{TRACE:032x}-{sketch.span_id:016x}-00"
    assert sketch.headers() == (own, f"expertmesh={sketch.span_id:016x},a=1,b=2")
    sketch.tells = False
    assert sketch.headers() == (own, "a=1,b=2")


def test_who_is_called_with_a_mark_waits_for_word_and_passes_it_on() -> None:
    kept, told = Kept(), Told()
    header, mark = marked(5)
    sketch = kept.begin(header, mark)
    with suppress(Unavailable), sketch.stage("call", CLIENT) as child:
        given, _ = child.started_at(told, 3)
        raise GONE
    sketch.end()
    assert (kept.parts, told.kept) == ([], [])  # though it failed: it is not this process's to say
    kept.tail.awaited.told(header, header)
    assert kept.parts == [child, sketch]
    assert told.kept == [(given, 0)]
    kept.tail.awaited.told(header, header)
    assert len(kept.parts) == 2


def test_word_that_comes_before_the_end_is_remembered() -> None:
    kept, told = Kept(), Told()
    header, mark = marked(5)
    sketch = kept.begin(header, mark)
    kept.tail.awaited.told(header, header)
    given, _ = sketch.given_to(told)
    sketch.end()
    assert kept.parts == [sketch]
    assert told.kept == [(given, 0)]


def test_what_has_no_name_yet_is_told_by_its_stream_and_gets_the_name_that_its_trace_has_now() -> None:
    root, below, told = Kept(), Kept(), Told()
    sketch = root.begin()
    with suppress(Unavailable), sketch.stage("call", CLIENT) as call:
        start = call.started_at(told, 3)
        raise GONE
    assert start == ("?", "")
    waits = Sketch(below.tail, 7, 0, caller_of_start(*start, ("a session", 3)), "request", SERVER, {})
    below.tail.awaited.begun(waits.caller.key, waits)
    further = Told()
    waits.started_at(further, 9)
    waits.end()
    assert not below.parts
    sketch.end()
    [(traceparent, stream_id)] = told.kept
    assert traceparent == call.headers()[0]
    assert stream_id == 3
    for key, name in ((("another", 3), traceparent), (("a session", 3), "nonsense")):
        below.tail.awaited.told(key, name)
        assert not below.parts
    below.tail.awaited.told(("a session", 3), traceparent)
    assert below.parts == [waits]
    assert waits.trace_id == TRACE
    assert waits.caller.span_id == call.span_id
    assert further.kept == [(waits.headers()[0], 9)]
    below.tail.awaited.told(("a session", 3), traceparent)
    assert len(below.parts) == 1


def test_word_may_come_while_the_nameless_runs_and_what_it_then_calls_gets_the_name() -> None:
    kept, told = Kept(), Told()
    sketch = Sketch(kept.tail, 7, 0, caller_of_start("?", "", 1), "request", SERVER, {})
    kept.tail.awaited.begun(1, sketch)
    header, _ = marked(5)
    kept.tail.awaited.told(1, header)
    given, mark = sketch.started_at(told, 4)
    assert given.startswith(f"00-{TRACE:032x}-")
    assert mark
    assert told.kept == [(given, 0)]
    sketch.end()
    assert kept.parts == [sketch]
    assert not kept.tail.awaited._by_key


@pytest.mark.parametrize("mark", ["", f"{VENDOR}=00000000000000bb", f"{VENDOR}=x"])
def test_without_its_caller_s_own_mark_a_process_decides_itself(mark: str) -> None:
    kept = Kept()
    sketch = kept.begin(f"00-{TRACE:032x}-0000000000000005-00", mark)
    sketch.fail(GONE)
    sketch.end()
    assert kept.parts == [sketch]
    assert sketch.attributes["expertmesh.kept"] == "error"


def test_a_process_decides_itself_on_what_its_caller_left_out_without_a_name() -> None:
    kept = Kept()
    head = head_of(ParentBased(TraceIdRatioBased(0.999)))
    telemetry = Telemetry(NoOpMeter(""), Tracing(head, kept.tail, kept.tail))
    for _ in range(2):
        with suppress(Unavailable), telemetry.begin("request", SERVER, LEFT_OUT_THERE):
            raise GONE
    first, second = kept.parts
    assert first.trace_id != second.trace_id
    assert isinstance(first, Sketch)
    assert first.attributes["expertmesh.kept"] == "error"


def test_two_requests_of_one_caller_s_span_are_both_kept() -> None:
    kept = Kept()
    header, mark = marked(5)
    first, second = kept.begin(header, mark), kept.begin(header, mark)
    first.end()
    kept.tail.awaited.told(header, header)
    second.end()
    assert kept.parts == [first, second]


def test_those_who_answer_learn_that_it_is_kept() -> None:
    kept, verdict = Kept(), Verdict()
    sketch = kept.begin(verdict=verdict)
    sketch.fail(GONE)
    assert not verdict.kept
    sketch.end()
    assert verdict.kept


def test_word_of_what_is_not_known_is_passed_over() -> None:
    kept = Kept()
    for header in ("", "nonsense", f"00-{TRACE:032x}-0000000000000005-00", f"00-{TRACE:032x}-0000000000000005-01"):
        kept.tail.awaited.told(header, header)
    assert kept.parts == []


# Bounds


def test_a_flood_of_requests_whose_word_never_comes_is_bounded_and_the_latest_are_held() -> None:
    kept = Kept()
    for caller in range(1, 3 * WAITING + 1):
        kept.begin(*marked(caller)).end()
    assert kept.tail.awaited.held == WAITING
    assert len(kept.tail.awaited._by_key) == WAITING
    kept.tail.awaited.told(marked(1)[0], marked(1)[0])
    assert not kept.parts
    kept.tail.awaited.told(marked(3 * WAITING)[0], marked(3 * WAITING)[0])
    assert len(kept.parts) == 1


def test_what_has_waited_too_long_is_let_go() -> None:
    kept = Kept()
    kept.begin(*marked(1)).end()
    kept.now = WAITING_S + 1
    kept.begin(*marked(2)).end()
    assert kept.tail.awaited.held == 1
    kept.tail.awaited.told(marked(1)[0], marked(1)[0])
    assert not kept.parts


def test_a_request_is_noted_with_so_many_spans_and_its_own_is_among_them() -> None:
    kept = Kept()
    root = kept.begin()
    for number in range(3 * MOST_SPANS):
        root.note(("step", number, number + 1, nothing, None))
    root.fail(GONE)
    root.end()
    assert len(kept.parts) == MOST_SPANS + 1
    assert root in kept.parts


def test_where_everything_fails_not_everything_is_kept() -> None:
    kept = Kept()
    for _ in range(10 * int(BURST)):
        sketch = kept.begin()
        sketch.fail(GONE)
        sketch.end()
    assert len(kept.parts) == BURST
    assert kept.tail.awaited.held == 0


def test_nothing_stays_of_what_is_dropped() -> None:
    kept = Kept()
    root = kept.begin()
    with root.stage("late"):
        root.given_to(Told())
        root.end()
    root.given_to(Told())
    assert kept.tail.awaited.held == 0
    assert (root.stages, root.calls, kept.parts) == ([], [], [])


def test_a_clock_that_is_set_meanwhile_does_not_tear_a_request_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Kept().begin()
    before = root.epoch()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert root.epoch() == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_leaves_nothing_to_the_garbage_collector(fails: bool) -> None:
    gone: list[int] = []

    def about() -> dict[str, str]:
        return {}

    kept = Kept()
    gc.disable()
    try:
        root = kept.begin()
        weakref.finalize(about, gone.append, 1)
        root.note(("call", 0, 1, about, None))
        if fails:
            root.fail(GONE)
        root.end()
        kept.parts.clear()
        del about, root
        assert gone == [1]
    finally:
        gc.enable()
