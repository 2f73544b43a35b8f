"""The time of a request is shared out among its hops, to the last nanosecond."""

from dataclasses import replace

import pytest
from hypothesis import given

from expertmesh_client.traces.hops import FAILED, gaps, hops, hops_of, medians
from expertmesh_client.traces.spans import Kind
from expertmesh_client.traces.trace import ANSWERS
from expertmesh_client.traces.tree import tree_of
from support.span_sets import any_spans
from support.traces import GENERATE, MS, START, span, whole_trace


def in_ms(seconds):
    return {hop: round(took * 1e3, 3) for hop, took in seconds.items()}


def test_hops_are_differences_of_nested_durations_and_add_up_to_the_whole():
    found = hops_of(whole_trace())

    assert in_ms(found) == {
        "client ↔ router": 4,
        "admit": 1,
        "classify": 4,
        "select": 2,
        "router, otherwise": 3,
        "router ↔ expert": 6,
        "queue": 5,
        "prefill": 20,
        "decode": 50,
        "expert, otherwise": 5,
    }
    assert list(found) == [*in_ms(found)], "in the order of a request's way"
    assert sum(found.values()) == pytest.approx(0.1)


def test_the_ways_into_the_engine_and_out_of_it_are_hops_beside_its_stages():
    spans = [replace(one, start_ns=one.start_ns + 2 * MS) if one.span_id == "e1" else one for one in whole_trace(0)]
    expert = "expertmesh-expert"
    spans += [
        span("e0", "e", "engine.submit", Kind.INTERNAL, 12, 2, expert),
        span("e4", "e", "engine.deliver", Kind.INTERNAL, 87, 5, expert),
    ]
    found = hops_of(spans)

    assert list(found)[-6:] == ["router ↔ expert", "submit", "queue", "prefill", "decode", "deliver"]
    assert in_ms(found)["submit"] == 2
    assert in_ms(found)["deliver"] == 5


def test_no_clock_is_compared_with_another():
    assert hops_of(whole_trace(ahead_ms=0)) == hops_of(whole_trace(ahead_ms=3_600_000))


def test_an_expert_asked_directly_has_hops_of_its_own():
    spans = [one for one in whole_trace() if one.span_id.startswith(("c", "e"))]
    spans[1] = replace(spans[1], parent_id="c")

    assert list(hops_of(spans)) == ["client ↔ expert", "queue", "prefill", "decode", "expert, otherwise"]


def test_an_answer_around_the_router_has_both_transits():
    client = "expertmesh-client"
    spans = [
        span("c", "", GENERATE, Kind.CLIENT, 0, 100, client),
        span("d", "c", "route", Kind.CLIENT, 1, 6, client),
        span("s", "d", "expertmesh.v1.RouterService/RouteSession/ask", Kind.SERVER, 2, 4),
        span("s1", "s", "route.classify", Kind.INTERNAL, 2, 3),
        span("a", "c", "expert call", Kind.CLIENT, 8, 90, client),
        span("e", "a", START, Kind.SERVER, 9, 85, "expertmesh-expert"),
        span("e3", "e", "engine.decode", Kind.INTERNAL, 9, 85, "expertmesh-expert"),
    ]

    assert in_ms(hops_of(spans)) == {
        "client ↔ router": 2,
        "classify": 3,
        "router, otherwise": 1,
        "client ↔ expert": 5,
        "decode": 85,
        "client, otherwise": 4,
    }


def test_an_attempt_that_failed_is_a_hop_of_its_own():
    """The router asks a second replica: what the first one took is neither transit nor the router's own."""
    spans = whole_trace()
    failed = span("r9", "r", "expert call", Kind.CLIENT, 8.5, 1, failed=True)
    found = hops_of([*spans, failed])

    assert in_ms(found)[FAILED] == 1
    assert in_ms(found)["router, otherwise"] == 2
    assert sum(found.values()) == pytest.approx(0.1)


def test_a_request_need_not_be_the_root():
    """An application's own span around the call changes nothing."""
    spans = [replace(one, parent_id=one.parent_id or "app") for one in whole_trace()]
    app = span("app", "", "POST /chat", Kind.SERVER, -5, 400, "shop")

    assert hops_of([app, *spans]) == hops_of(whole_trace())


def test_a_caller_that_is_not_traced_leaves_the_rest():
    spans = [one for one in whole_trace() if one.span_id != "c"]

    assert in_ms(hops_of(spans))["router ↔ expert"] == 6
    assert sum(hops_of(spans).values()) == pytest.approx(0.096)


def test_spans_that_are_not_ours_are_named_as_they_are():
    spans = [*whole_trace(), span("x", "e", "guard.check", Kind.INTERNAL, 3_600_100, 4, "expertmesh-expert")]

    assert in_ms(hops_of(spans))["guard.check"] == 4
    assert in_ms(hops_of(spans))["expert, otherwise"] == 1


def test_a_stage_that_is_longer_than_its_service_is_cut_to_fit():
    spans = [one if one.span_id != "e3" else replace(one, end_ns=one.end_ns + 10**12) for one in whole_trace()]

    assert in_ms(hops_of(spans))["decode"] == 55
    assert sum(hops_of(spans).values()) == pytest.approx(0.1)


def test_no_request_has_no_hops():
    assert hops_of([]) == {}
    assert hops_of([span("a", "", "expertmesh.v1.RouterService/Route", Kind.SERVER, 0, 1)]) == {}


def test_gaps_say_where_no_span_is():
    [root] = tree_of(whole_trace())

    assert in_ms(gaps(root)) == {"router, after expert call": 3, "expert, after engine.decode": 5}


def test_a_gap_between_two_spans_is_told_from_one_before_them():
    spans = [one for one in whole_trace() if one.span_id not in ("r1", "r3")]
    [root] = tree_of(spans)

    found = in_ms(gaps(root))

    assert found["router, before route.classify"] == 1
    assert found["router, between route.classify and expert call"] == 2


def test_medians_are_taken_over_the_traces_that_have_the_hop():
    assert medians([{"queue": 1.0}, {"queue": 3.0, "admit": 2.0}, {"queue": 2.0}]) == {"admit": 2.0, "queue": 2.0}


@given(any_spans)
def test_hops_add_up_to_the_request_whatever_its_spans_are(spans):
    for root in tree_of(spans):
        for node in root:
            if not node.span.name.startswith(ANSWERS):
                continue
            found = hops(node)

            assert all(took >= 0 for took in found.values())
            assert sum(found.values()) == pytest.approx(node.span.seconds)
            assert all(took >= 0 for took in gaps(node).values())
