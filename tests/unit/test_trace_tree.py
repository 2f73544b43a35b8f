"""A trace becomes a tree, whatever of it has arrived."""

import pytest
from hypothesis import given

from expertmesh_client.traces.spans import Kind, Span
from expertmesh_client.traces.tree import MAX_DEPTH, data_of, duration_text, tree_of, whats_missing
from support.span_sets import any_spans
from support.traces import GENERATE, START, span, whole_trace


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("c", "the client's span has not arrived"),
        ("r", "the span around route.admit of router has not arrived"),
        ("r4", f"the span around {START} of expert has not arrived"),
        ("e", "the span around engine.queue of expert has not arrived"),
    ],
)
def test_a_span_that_is_missing_is_named_and_the_rest_is_there(gone, missing):
    spans = [one for one in whole_trace() if one.span_id != gone]

    assert whats_missing(spans) == missing
    assert sum(1 for root in tree_of(spans) for _ in root) == 9


def test_an_expert_that_has_sent_nothing_is_missed():
    spans = [one for one in whole_trace() if not one.span_id.startswith("e")]

    assert whats_missing(spans) == "the other end of expert call of router has not arrived"


@pytest.mark.parametrize(
    "ended",
    [
        {"failed": True, "attributes": {"error.type": "UNAVAILABLE"}},
        {"attributes": {"rpc.response.status_code": "CANCELLED"}},
    ],
)
def test_a_call_that_did_not_go_well_need_not_have_another_end(ended):
    assert whats_missing([span("c", "", GENERATE, Kind.CLIENT, 0, 100, **ended)]) == ""


def test_a_call_that_went_through_others_has_their_far_ends():
    """Around the router: the client's one span holds a call for the route, and one for the answer."""
    client = "expertmesh-client"
    spans = [
        span("c", "", GENERATE, Kind.CLIENT, 0, 100, client),
        span("d", "c", "route", Kind.CLIENT, 0, 5, client),
        span("s", "d", "expertmesh.v1.RouterService/RouteSession/ask", Kind.SERVER, 1, 3),
        span("a", "c", "expert call", Kind.CLIENT, 5, 94, client),
    ]

    assert whats_missing(spans) == "the other end of expert call of client has not arrived"
    assert whats_missing([*spans, span("e", "a", START, Kind.SERVER, 6, 90, "expertmesh-expert")]) == ""


def test_no_span_is_no_tree():
    assert whats_missing([]) == "no span has arrived"
    assert tree_of([]) == []


def test_a_tree_is_plain_data_too():
    [root] = tree_of(whole_trace())

    data = data_of(root)

    assert (data["name"], data["service"], data["seconds"]) == (GENERATE, "expertmesh-client", 0.1)
    assert [child["name"] for child in data["children"][0]["children"]] == [
        "route.admit",
        "route.classify",
        "route.select",
        "expert call",
    ]


def test_a_chain_without_an_end_is_cut_short_and_nothing_is_lost():
    chain = [span(str(at), str(at - 1) if at else "", "x", Kind.INTERNAL, at, 1) for at in range(5000)]

    [root] = tree_of(chain)

    assert sum(1 for _ in root) == 5000
    assert _depth(root) == MAX_DEPTH
    data_of(root)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "12 µs"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (1.234, "1.23 s"), (0, "0 µs")],
)
def test_durations_are_written_in_the_unit_that_suits_them(seconds, text):
    assert duration_text(seconds) == text


@given(any_spans)
def test_no_set_of_spans_is_too_broken_for_a_tree(spans: list[Span]):
    """Rings, lost parents, doubled ids and clocks that ran backwards: every span is there once."""
    roots = tree_of(spans)

    found = [node.span.span_id for root in roots for node in root]
    assert sorted(found) == sorted({one.span_id for one in spans})
    assert isinstance(whats_missing(spans), str)


def _depth(node):
    return 1 + max(map(_depth, node.children), default=0)
