"""A trace becomes a tree and lines, whatever of it has arrived."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.hops import hops_of, medians
from expertmesh_client.spans import Kind, Span
from expertmesh_client.trace_tree import data_of, duration_text, lines_of, tree_of, whats_missing

MS = 1_000_000
GENERATE, START = "expertmesh.v1.InferenceService/Generate", "expertmesh.v1.InferenceService/Session/start"


def span(id_, parent, name, kind, start_ms, took_ms, service="expertmesh-router", **more):
    start_ns = int(start_ms * MS)
    end_ns = start_ns + int(took_ms * MS)
    return Span(
        span_id=id_, parent_id=parent, name=name, kind=kind, service=service, start_ns=start_ns, end_ns=end_ns, **more
    )


def whole_trace():
    """One request: 100 ms at the client, 96 at the router, 80 at the expert, whose clock is an hour ahead."""
    hour = 3_600_000
    return [
        span("c", "", GENERATE, Kind.CLIENT, 0, 100, "expertmesh-client"),
        span("r", "c", GENERATE, Kind.SERVER, 2, 96),
        span("r1", "r", "route.admit", Kind.INTERNAL, 2, 1),
        span("r2", "r", "route.classify", Kind.INTERNAL, 3, 4),
        span("r3", "r", "route.select", Kind.INTERNAL, 7, 2),
        span("r4", "r", "expert call", Kind.CLIENT, 9, 86),
        span("e", "r4", START, Kind.SERVER, hour, 80, "expertmesh-expert"),
        span("e1", "e", "engine.queue", Kind.INTERNAL, hour, 5, "expertmesh-expert"),
        span("e2", "e", "engine.prefill", Kind.INTERNAL, hour + 5, 20, "expertmesh-expert"),
        span("e3", "e", "engine.decode", Kind.INTERNAL, hour + 25, 50, "expertmesh-expert"),
    ]


def test_a_whole_trace_is_drawn_with_durations_and_shares():
    lines = lines_of(tree_of(whole_trace()))

    assert lines == [
        "expertmesh.v1.InferenceService/Generate                client   100 ms  100%",
        "└─ expertmesh.v1.InferenceService/Generate             router  96.0 ms   96%",
        "   ├─ route.admit                                      router   1.0 ms    1%",
        "   ├─ route.classify                                   router   4.0 ms    4%",
        "   ├─ route.select                                     router   2.0 ms    2%",
        "   └─ expert call                                      router  86.0 ms   86%",
        "      └─ expertmesh.v1.InferenceService/Session/start  expert  80.0 ms   80%",
        "         ├─ engine.queue                               expert   5.0 ms    5%",
        "         ├─ engine.prefill                             expert  20.0 ms   20%",
        "         └─ engine.decode                              expert  50.0 ms   50%",
    ]
    assert max(map(len, lines)) <= 80


def test_a_narrow_terminal_cuts_names_and_keeps_figures():
    lines = lines_of(tree_of(whole_trace()), width=50)

    assert max(map(len, lines)) <= 50
    assert "…" in lines[0]
    assert lines[-1].endswith("50.0 ms   50%")


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("c", "the client's span has not arrived"),
        ("r", "the span around route.admit of router has not arrived"),
        ("r4", f"the span around {START} of expert has not arrived"),
        ("e", "the span around engine.queue of expert has not arrived"),
    ],
)
def test_a_span_that_is_missing_is_named_and_the_rest_is_shown(gone, missing):
    spans = [one for one in whole_trace() if one.span_id != gone]

    assert whats_missing(spans) == missing
    lines = lines_of(tree_of(spans))
    assert len(lines) == 9
    assert any("(parent missing)" in line for line in lines)


def test_an_expert_that_has_sent_nothing_is_missed():
    spans = [one for one in whole_trace() if not one.span_id.startswith("e")]

    assert whats_missing(spans) == "the other end of expert call of router has not arrived"


def test_a_call_that_failed_need_not_have_another_end():
    spans = [span("c", "", GENERATE, Kind.CLIENT, 0, 100, failed=True, attributes={"error.type": "UNAVAILABLE"})]

    assert whats_missing(spans) == ""
    assert lines_of(tree_of(spans))[0].startswith(f"{GENERATE} (UNAVAILABLE)")


def test_no_span_is_no_tree():
    assert whats_missing([]) == "no span has arrived"
    assert lines_of(tree_of([])) == []
    assert hops_of([]) == {}


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


def test_hops_are_differences_of_nested_durations_and_add_up_to_the_whole():
    hops = hops_of(whole_trace())

    assert {hop: round(seconds * 1e3) for hop, seconds in hops.items()} == {
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
    assert sum(hops.values()) == pytest.approx(0.1)


def test_an_expert_asked_directly_has_hops_of_its_own():
    spans = [one for one in whole_trace() if one.span_id.startswith(("c", "e"))]
    spans[1] = span("e", "c", GENERATE, Kind.SERVER, 1, 80, "expertmesh-expert")

    assert list(hops_of(spans)) == ["client ↔ expert", "queue", "prefill", "decode", "expert, otherwise"]


def test_medians_are_taken_over_the_traces_that_have_the_hop():
    assert medians([{"queue": 1.0}, {"queue": 3.0, "admit": 2.0}, {"queue": 2.0}]) == {"admit": 2.0, "queue": 2.0}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "12 µs"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (1.234, "1.23 s"), (0, "0 µs")],
)
def test_durations_are_written_in_the_unit_that_suits_them(seconds, text):
    assert duration_text(seconds) == text


ids = st.sampled_from(["a", "b", "c", "d", "e", ""])


@given(
    st.lists(
        st.builds(
            Span,
            span_id=ids.filter(bool),
            parent_id=ids,
            name=st.sampled_from(["route.admit", "engine.decode", "x" * 90]),
            kind=st.sampled_from(Kind),
            service=st.sampled_from(["", "expertmesh-router"]),
            start_ns=st.integers(0, 2**63),
            end_ns=st.integers(0, 2**63),
            failed=st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_set_of_spans_is_too_broken_to_be_shown(spans):
    """Rings, lost parents, doubled ids and clocks that ran backwards: every span is there once."""
    shown = lines_of(tree_of(spans))

    assert len(shown) == len({one.span_id for one in spans})
    whats_missing(spans)
    assert all(seconds >= 0 for seconds in hops_of(spans).values())
