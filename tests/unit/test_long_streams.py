"""Marks on a stream's span, and word of how far it is."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN

from mesh_wire.long_streams import (
    FIRST_TOKEN,
    LONGEST_PAUSE_S,
    NEXT_S,
    PROGRESS,
    SO_FAR,
    STRIDE,
    STRIDES_ALIKE,
    TOKENS,
    LongStreams,
    Marks,
    Watched,
    stride_of,
)
from mesh_wire.outlets import Tally
from mesh_wire.telemetry import Telemetry


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(exported: InMemorySpanExporter) -> Telemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Telemetry(provider.get_tracer("t"), NoOpMeter("t"), enabled=True, token_event_stride=10)


def test_marks_come_at_the_stride_which_doubles() -> None:
    marks = Marks(10)
    at = [tokens for tokens in range(1, 1000) if marks.reached(tokens)]
    assert at[:STRIDES_ALIKE] == [10 * number for number in range(1, STRIDES_ALIKE + 1)]
    assert [after - before for before, after in pairwise(at)][-1] >= 40


def test_a_long_answer_has_few_marks_and_no_stride_none() -> None:
    marks = Marks(STRIDE)
    assert sum(marks.reached(tokens) for tokens in range(1, 30_000)) <= 32
    assert not any(Marks(0).reached(tokens) for tokens in range(1, 10_000))


@given(st.lists(st.integers(1, 5000)), st.integers(1, 100))
def test_marks_are_never_closer_than_their_stride_and_none_is_owed(steps: list[int], stride: int) -> None:
    marks, tokens, marked = Marks(stride), 0, 0
    for step in steps:
        tokens += step
        if marks.reached(tokens):
            assert tokens // stride > marked // stride
            marked = tokens
            assert not marks.reached(tokens)


@pytest.mark.parametrize(("said", "stride"), [("", STRIDE), ("0", 0), (" 64 ", 64), ("-1", STRIDE), ("few", STRIDE)])
def test_the_stride_is_a_setting(said: str, stride: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stride_of({"EXPERTMESH_TRACE_STRIDE": said}) == stride
    assert bool(caplog.text) == (said in ("-1", "few"))


def test_word_is_given_ever_more_rarely_with_what_is_known(
    telemetry: Telemetry, exported: InMemorySpanExporter
) -> None:
    span, tally = telemetry.start_span("request", attributes={"expertmesh.expert": "math", "other": 1}), Tally()
    watched = Watched(span, tally, 10, now=0.0, first=True)
    for second in range(1, 3601):
        tally.count(2)
        watched.look(float(second), telemetry)

    words = exported.get_finished_spans()
    assert {word.name for word in words} == {PROGRESS}
    assert {word.parent.span_id for word in words} == {span.get_span_context().span_id}
    assert [word.attributes[SO_FAR] for word in words][:4] == [10, 30, 70, 150]
    assert len(words) == 16
    pauses = [word.attributes[NEXT_S] for word in words]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert words[0].attributes["expertmesh.expert"] == "math"
    assert "other" not in words[0].attributes
    assert words[1].attributes["expertmesh.stream.tokens_per_s"] == pytest.approx(2)
    assert words[-1].attributes["expertmesh.stream.seconds"] == pytest.approx(3315)
    names = [event.name for event in span.events]
    assert names.count(FIRST_TOKEN) == 1
    assert 8 <= names.count(TOKENS) <= 60


def test_without_a_token_there_is_word_and_no_mark(telemetry: Telemetry, exported: InMemorySpanExporter) -> None:
    span = telemetry.start_span("request")
    watched = Watched(span, Tally(), 10, now=0.0, first=True)
    watched.look(5.0, telemetry)
    [word] = exported.get_finished_spans()
    assert word.attributes[SO_FAR] == 0
    assert not span.events


async def test_the_last_look_marks_the_first_token_of_a_short_answer_and_gives_no_word(
    telemetry: Telemetry, exported: InMemorySpanExporter
) -> None:
    streams, tally = LongStreams(telemetry), Tally()
    span = telemetry.start_span("request")
    watched = streams.begin(span, tally)
    tally.count(1)
    streams.end(watched)
    assert [event.name for event in span.events] == [FIRST_TOKEN]
    assert not exported.get_finished_spans()
    assert streams._timer is None


async def test_an_answer_that_goes_on_has_had_its_first_token(telemetry: Telemetry) -> None:
    streams, tally = LongStreams(telemetry), Tally()
    span = telemetry.start_span("request")
    tally.count(1)
    streams.end(streams.begin(span, tally, first=False))
    assert not span.events


async def test_what_is_not_recorded_is_not_looked_at() -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("t").start_span("request")
    streams = LongStreams(Telemetry.off())
    for span in (INVALID_SPAN, unsampled):
        assert streams.begin(span, Tally()) is None
    assert streams._timer is None
