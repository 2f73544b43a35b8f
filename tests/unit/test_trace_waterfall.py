"""A trace on a terminal: every span is there, within the width, and what does not fit is said."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.traces.oddities import Oddity, oddities
from expertmesh_client.traces.spans import Event, Kind
from expertmesh_client.traces.trace import gathered
from expertmesh_client.traces.tree import tree_of
from expertmesh_client.traces.waterfall import lines_of, titled
from support.span_sets import any_spans
from support.traces import GENERATE, HOUR_MS, MS, otlp, span, whole_trace


def test_a_whole_trace_is_drawn_with_durations_shares_and_bars():
    lines = lines_of(tree_of(whole_trace(ahead_ms=0)))

    assert lines == [
        "                                                   0                      100 ms",
        "Generate                    client   100 ms  100%  ███████████◆█████████████████",
        "└─ Generate                 router  96.0 ms   96%  ████████████████████████████",
        "   ├─ route.admit           router   1.0 ms    1%  ▏",
        "   ├─ route.classify        router   4.0 ms    4%  █",
        "   ├─ route.select          router   2.0 ms    2%    █",
        "   └─ expert call           router  86.0 ms   86%    █████████████████████████",
        "      └─ Session/start      expert  80.0 ms   80%     ███████████████████████",
        "         ├─ engine.queue    expert   5.0 ms    5%     █",
        "         ├─ engine.prefill  expert  20.0 ms   20%      ██████",
        "         └─ engine.decode   expert  50.0 ms   50%            ██████████████",
        "◆ gen_ai.first_token: client at 40.0 ms",
    ]
    assert max(map(len, lines)) <= 80


def test_another_clock_is_told_and_its_spans_are_drawn_where_they_must_have_been():
    lines = lines_of(tree_of(whole_trace(ahead_ms=HOUR_MS)))
    together = lines_of(tree_of(whole_trace(ahead_ms=0)))

    assert lines[-1] == "! Session/start of expert: its clock disagrees with its caller's, by 3600.00 s"
    assert "Session/start !" in lines[7]
    assert [line.split("%")[-1].strip() for line in lines[8:11]] == [
        line.split("%")[-1].strip() for line in together[8:11]
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"end_ns": 1 * MS}, Oddity.BACKWARDS),
        ({"end_ns": 900 * MS}, Oddity.LONGER),
        ({"start_ns": 203 * MS, "end_ns": 207 * MS}, Oddity.OUTSIDE),
    ],
)
def test_a_clock_that_jumped_is_told_by_what_it_did(changed, what):
    spans = [replace(one, **changed) if one.span_id == "r2" else one for one in whole_trace(0)]
    [root] = tree_of(spans)

    [odd] = oddities([root]).values()

    assert (odd.span.span_id, odd.what) == ("r2", what)
    assert any(line.startswith("! route.classify of router: it ") for line in lines_of([root]))
    assert max(map(len, lines_of([root]))) <= 80


def test_a_stage_that_stands_a_little_outside_is_no_oddity():
    """Its times are another clock's, compared once per request."""
    spans = [replace(one, end_ns=one.end_ns + 9 * MS) if one.span_id == "e3" else one for one in whole_trace(0)]

    assert oddities(tree_of(spans)) == {}


def test_a_narrow_terminal_cuts_names_and_keeps_figures():
    lines = lines_of(tree_of(whole_trace(0)), width=60)

    assert max(map(len, lines)) <= 60
    assert "…" in lines[-3]
    assert "50.0 ms" in lines[-2]


def test_a_wide_terminal_gets_longer_bars():
    lines = lines_of(tree_of(whole_trace(0)), width=200)

    assert len(lines[1]) == 200


def test_what_failed_and_what_is_missing_stand_beside_the_names():
    failed = [span("c", "", GENERATE, Kind.CLIENT, 0, 100, failed=True, attributes={"error.type": "UNAVAILABLE"})]
    orphans = [one for one in whole_trace() if one.span_id not in ("c", "e")]

    assert lines_of(tree_of(failed))[1].startswith("Generate (UNAVAILABLE)")
    assert sum("(parent missing)" in line for line in lines_of(tree_of(orphans))) == 4


def test_no_span_draws_nothing():
    assert lines_of([]) == []


def test_progress_of_a_long_stream_is_marked():
    events = (Event("gen_ai.first_token", 10 * MS), *(Event("gen_ai.progress", at * MS) for at in (20, 40, 60)))
    lines = lines_of(tree_of([span("c", "", GENERATE, Kind.CLIENT, 0, 100, "expertmesh-client", events=events)]))

    assert lines[1].count("◇") == 3
    assert lines[-1] == "◇ gen_ai.progress: client at 20.0 ms (3 marks)"


def test_a_trace_is_headed_by_its_route_and_ends_with_what_lies_between():
    trace = gathered([otlp(whole_trace(0))])["ab" * 16]

    lines = titled(trace)

    assert lines[:2] == ["trace " + "ab" * 16, "math on expert-a, confident, 30 + 11 tokens"]
    assert lines[-2:] == [
        "between the spans: client ↔ router 4.0 ms; router ↔ expert 6.0 ms;",
        "  unexplained 8.0 ms (8.0%)",
    ]


@given(any_spans, st.integers(20, 200))
def test_no_set_of_spans_is_too_broken_to_be_drawn(spans, width):
    roots = tree_of(spans)
    lines = lines_of(roots, width)

    odd = oddities(roots)
    assert len([line for line in lines if line[:2] not in ("◆ ", "◇ ", "! ")]) == (
        len({one.span_id for one in spans}) + 1 if spans else 0
    )
    assert len([line for line in lines if line.startswith("! ")]) == len(odd)
    assert width < 80 or max(map(len, lines), default=0) <= width + 20  # reasons for failures are kept whole
