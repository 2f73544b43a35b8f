"""Requests that have not ended, as a trace shows them."""

import json

import pytest
from hypothesis import given

from expertmesh_client.traces.hops import gaps, hops
from expertmesh_client.traces.report import sort_out
from expertmesh_client.traces.running import LATE_S, NOT_ENDED, PROGRESS, not_ended, running
from expertmesh_client.traces.spans import Kind
from expertmesh_client.traces.trace import Trace, gathered, lacks
from expertmesh_client.traces.tree import tree_of
from expertmesh_client.traces.waterfall import lines_of, titled
from support.span_sets import any_spans
from support.traces import HOUR_MS, MS, otlp, span, whole_trace

S = 1_000_000_000


def word(id_, parent, start_ms, took_ms, tokens, service="expertmesh-router", **more):
    about = {
        "gen_ai.usage.output_tokens": str(tokens),
        "expertmesh.stream.seconds": str((start_ms + took_ms) / 1000),
        "expertmesh.stream.tokens_per_s": "20.0",
        "expertmesh.stream.next_s": "10.0",
        "expertmesh.expert": "math",
        **more,
    }
    return span(id_, parent, PROGRESS, Kind.INTERNAL, start_ms, took_ms, service, attributes=about)


def under_way(ahead_ms=HOUR_MS):
    """A request of which the router and the expert, whose clock is ahead, have given word twice."""
    return [
        *(one for one in whole_trace(ahead_ms) if one.span_id in ("r1", "r2", "r3")),
        word("p1", "r", 9, 4991, 100),
        word("p2", "r", 5000, 10_000, 300),
        word("q1", "e", 12 + ahead_ms, 4988, 101, "expertmesh-expert", **{"expertmesh.replica": "expert-a"}),
    ]


def trace_of(spans):
    return gathered([otlp(spans)])["ab" * 16]


def test_what_has_not_arrived_is_stood_in_for_by_what_is_known_of_it():
    router, expert = not_ended(under_way(0))
    assert (router.name, router.span_id, router.service) == (NOT_ENDED, "r", "expertmesh-router")
    assert (router.start_ns, router.end_ns) == (2 * MS, 15 * S)
    assert (expert.span_id, expert.service, expert.end_ns) == ("e", "expertmesh-expert", 5 * S)


def test_a_running_request_reads_as_one_and_not_as_a_broken_trace():
    trace = trace_of(under_way())
    lines = titled(trace, 80, now_ns=17 * S + HOUR_MS * MS)  # for the last to be heard of is the expert

    assert lines[1] == "math on expert-a"
    assert lines[2] == "still running: 101 tokens after 3,605 s, 20.0 tokens/s; heard of 12 s ago"
    text = "\n".join(lines)
    assert "parent missing" not in text
    assert "!" not in text
    assert lines[4].startswith(NOT_ENDED)
    assert lines[5].startswith("├─ route.admit")
    assert sum(NOT_ENDED in line for line in lines) == 2
    assert "stream.progress (300 tokens)" in text
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("later_s", "silent"), [(1, False), (10 + LATE_S - 1, False), (10 + LATE_S + 1, True)])
def test_who_gives_no_word_when_it_is_due_is_silent(later_s, silent):
    spans = [one for one in under_way(0) if one.service != "expertmesh-expert"]
    found = running(spans, int((15 + later_s) * S))
    assert found is not None
    assert (found.tokens, found.silent) == (300, silent)
    assert found.words.startswith("not ended, and silent: 300 tokens after 15 s" if silent else "still running: 300")


def test_a_request_that_has_ended_is_not_running():
    spans = [*whole_trace(0), word("p1", "r", 2, 50, 5), word("q1", "e", 12, 50, 5, "expertmesh-expert")]
    trace = trace_of(spans)
    assert not_ended(spans) == []
    assert trace.running(10**18) is None
    assert lacks(trace) == ""
    assert "stream.progress (5 tokens)" in "\n".join(lines_of(trace.roots, 100))


def test_word_takes_nothing_of_the_hops():
    spans = whole_trace(0)
    words = [word("p1", "r", 2, 50, 5), word("q1", "e", 12, 50, 5, "expertmesh-expert")]
    [plain], [watched] = tree_of(spans), tree_of([*spans, *words])
    assert hops(watched) == hops(plain)
    assert gaps(watched) == gaps(plain)


def test_a_report_names_what_has_not_ended():
    assert sort_out([trace_of(under_way())]).left_out == {"not ended": 1}


def test_a_running_trace_is_one_of_the_mesh():
    assert trace_of([word("p1", "r", 0, 5000, 100)]).of_the_mesh


@pytest.mark.parametrize("said", ["many", "nan", "inf", "-1e300"])
def test_numbers_that_are_none_do_no_harm(said):
    strange = dict.fromkeys(("gen_ai.usage.output_tokens", "expertmesh.stream.next_s"), said)
    found = running([word("p", "r", 0, 5, 0, **strange)], 10 * S)
    assert found is not None
    assert found.tokens == 0
    assert json.dumps(found.words)


@given(any_spans)
def test_any_spans_can_be_shown(spans):
    words = [word(f"w{number}", one.span_id, 0, 5, number) for number, one in enumerate(spans)]
    trace = Trace("ab" * 16)
    trace.found = {one.span_id: (one, {}) for one in [*spans[1:], *words]}
    titled(trace, 80, 10**18)
