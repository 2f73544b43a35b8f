"""Many answers come to a report that says where the time went, and what it does not know."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.traces.report import grouped, quantile, report, sort_out
from expertmesh_client.traces.report_text import group_lines, report_data, report_lines
from expertmesh_client.traces.spans import Kind
from expertmesh_client.traces.trace import Trace, gathered
from support.span_sets import any_spans
from support.traces import MS, at, otlp, span, whole_trace

START_NS = 1_700_000_000 * 10**9


def one(number=0, spans=None, **client) -> Trace:
    """One trace; `client` changes the attributes of its root."""
    spans = at(whole_trace() if spans is None else spans, START_NS + number * 10**9)
    if client:
        spans[0] = replace(spans[0], attributes={**spans[0].attributes, **client})
    trace_id = f"{number:032x}"
    return gathered([otlp(spans, trace_id)])[trace_id]


def test_a_report_names_every_hop_with_its_share():
    found = sort_out([one(0), one(1)])

    lines = report_lines(report(found.answers), found.left_out)

    assert lines == [
        "2 answers, 14 Nov 22:13:20 to 22:13:21 UTC",
        "",
        "hop                        p50       p95       p99    share",
        "client ↔ router         4.0 ms    4.0 ms    4.0 ms     4.0%  █",
        "admit                   1.0 ms    1.0 ms    1.0 ms     1.0%",
        "classify                4.0 ms    4.0 ms    4.0 ms     4.0%  █",
        "select                  2.0 ms    2.0 ms    2.0 ms     2.0%",
        "router ↔ expert         6.0 ms    6.0 ms    6.0 ms     6.0%  █",
        "queue                   5.0 ms    5.0 ms    5.0 ms     5.0%  █",
        "prefill                20.0 ms   20.0 ms   20.0 ms    20.0%  ████",
        "decode                 50.0 ms   50.0 ms   50.0 ms    50.0%  █████████",
        "unexplained             8.0 ms    8.0 ms    8.0 ms     8.0%  █",
        "  in router             3.0 ms    3.0 ms    3.0 ms     3.0%",
        "  in expert             5.0 ms    5.0 ms    5.0 ms     5.0%",
        "whole answer            100 ms    100 ms    100 ms   100.0%",
        "",
        "first token            40.0 ms   40.0 ms   40.0 ms    as the caller saw it",
        "between tokens          5.0 ms    5.0 ms    5.0 ms    in the engine",
        "relay per token         1.2 ms    1.2 ms    1.2 ms    transit and router",
        "queue against compute, p50: 5.0 ms against 70.0 ms; 6.7% of both was waiting",
        "! 8.0% is unexplained, above 2%; without a span:",
        "    5.0% expert, after engine.decode",
        "    3.0% router, after expert call",
    ]
    assert max(map(len, lines)) <= 80


def test_shares_add_up_to_the_whole():
    found = report(sort_out([one(0), one(1)]).answers)

    assert sum(hop.share for hop in found.hops.values()) == pytest.approx(1)
    parts = (found.decision, found.transit, found.queue, found.compute, found.unexplained)
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_waiting_for_the_engine_is_queueing_and_handing_the_answer_over_is_on_the_way():
    expert = "expertmesh-expert"
    ways = [
        span("e0", "e", "engine.submit", Kind.INTERNAL, 11, 1, expert),
        span("e4", "e", "engine.deliver", Kind.INTERNAL, 87, 4, expert),
    ]
    before, found = (report(sort_out([one(0, spans)]).answers) for spans in (whole_trace(0), whole_trace(0) + ways))

    assert found.queue.p50 - before.queue.p50 == pytest.approx(0.001)
    assert found.transit.p50 - before.transit.p50 == pytest.approx(0.004)
    assert found.unexplained.p50 == pytest.approx(before.unexplained.p50 - 0.005)
    assert found.relay_per_token is not None
    assert before.relay_per_token is not None
    assert found.relay_per_token.p50 > before.relay_per_token.p50


def test_what_cannot_be_summed_up_is_counted_with_its_reason():
    refused = one(1, **{"error.type": "EXPERT_BUSY", "rpc.response.status_code": "RESOURCE_EXHAUSTED"})
    left = one(2, **{"error.type": "CANCELLED", "rpc.response.status_code": "CANCELLED"})
    partial = one(3, [each for each in whole_trace() if each.span_id != "e"])
    other = one(4, [span("a", "", "expertmesh.v1.RouterService/Route", Kind.SERVER, 0, 1)])

    found = sort_out([one(0), refused, left, partial, other])

    assert len(found.answers) == 1
    assert found.left_out == {
        "failed (EXPERT_BUSY)": 1,
        "cancelled": 1,
        "incomplete": 1,
        "without an answer in them": 1,
    }
    assert report_lines(report(found.answers), found.left_out)[1].startswith("left out: 1 failed (EXPERT_BUSY), ")


def test_a_caller_whose_spans_go_elsewhere_is_no_reason_to_leave_an_answer_out():
    found = sort_out([one(0, whole_trace()[1:])])

    assert len(found.answers) == 1
    assert "client ↔ router" not in found.answers[0].hops


def test_clocks_that_jumped_are_told_and_durations_hold():
    spans = [replace(each, end_ns=each.end_ns + 10**12) if each.span_id == "e3" else each for each in whole_trace()]

    found = report(sort_out([one(0, spans)]).answers)

    assert found.clock_trouble == 1
    assert found.whole.p50 == pytest.approx(0.1)
    assert "in 1 answer a span is longer" in report_lines(found, {})[-1]


def test_little_that_is_unexplained_raises_no_alarm():
    spans = [replace(each, end_ns=each.end_ns + 5 * MS) if each.span_id == "e3" else each for each in whole_trace()]
    spans = [replace(each, start_ns=each.start_ns - 2 * MS) if each.span_id == "r4" else each for each in spans]

    found = report(sort_out([one(0, spans)]).answers)

    assert found.unexplained.share == pytest.approx(0.01)
    assert found.explained
    assert not any(line.startswith("!") for line in report_lines(found, {}))


@pytest.mark.parametrize(
    ("by", "names"),
    [("expert", ["coding", "math"]), ("reason", ["confident", "unsure"]), ("size", ["≤ 128", "> 8192", "?"])],
)
def test_answers_are_told_apart_by_expert_reason_and_size(by, names):
    others = {"expertmesh.expert": "coding", "expertmesh.reason": "unsure", "gen_ai.usage.output_tokens": "9000"}
    traces = [one(0), one(1, **others)]
    if by == "size":
        spans = whole_trace()
        spans[0] = replace(spans[0], attributes={"rpc.response.status_code": "OK"})
        traces.append(one(2, spans))

    groups = {name: report(answers) for name, answers in grouped(sort_out(traces).answers, by).items()}

    assert list(groups) == names
    lines = group_lines(groups, by)
    assert len(lines) == len(names) + 1
    assert max(map(len, lines)) <= 80


def test_a_report_is_plain_data_too():
    found = sort_out([one(0)])
    whole = report(found.answers)

    data = json.loads(json.dumps(report_data(whole, found.left_out, {"math": whole})))

    assert data["hops"]["decode"]["p99"] == pytest.approx(0.05)
    assert data["unexplained"]["share"] == pytest.approx(0.08)
    assert data["explained"] is False
    assert data["groups"]["math"]["answers"] == 1


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_lie_within_and_in_order(values):
    ordered = sorted(values)
    found = [quantile(ordered, at) for at in (0, 0.5, 0.95, 1)]

    assert found == sorted(found) or found == pytest.approx(sorted(found))
    assert (found[0], found[-1]) == (ordered[0], ordered[-1])


@given(st.lists(any_spans, max_size=4))
def test_no_traces_are_too_broken_to_be_reported(sets):
    traces = []
    for number, spans in enumerate(sets):
        traces += gathered([otlp(spans, f"{number + 1:032x}")]).values()

    found = sort_out(traces)

    assert len(found.answers) + found.left_out.total() == len(traces)
    if found.answers:
        whole = report(found.answers)
        report_lines(whole, found.left_out)
        for by in ("expert", "reason", "size"):
            groups = {name: report(some) for name, some in grouped(found.answers, by).items()}
            assert sum(group.answers for group in groups.values()) == whole.answers
