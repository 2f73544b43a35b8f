"""Marks on a stream's span, and word of how far it is."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from mesh_wire import long_streams
from mesh_wire.asked import Asked
from mesh_wire.deadlines import Deadline
from mesh_wire.long_streams import (
    LONGEST_PAUSE_S,
    MOST_EVENTS,
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
from mesh_wire.sketches import Sketch
from mesh_wire.stages import Stage
from mesh_wire.trace_context import NOBODY, SAMPLED
from mesh_wire.untraced import NAMELESS, RETOLD, UNTRACED, LeftOut
from support.waiting import eventually


class Sampled:
    """What a sampled request leaves: its parts as they end."""

    def __init__(self) -> None:
        self.parts: list[Sketch | Stage] = []
        self.request = Sketch(self, 7, SAMPLED, NOBODY, "request", SpanKind.SERVER, {"expertmesh.expert": "math"})
        self.request.kept = True
        self.asked = Asked(Deadline(), "", self.request, 0.0)
        self.tally = Tally()

    def streams(self, stride: int) -> LongStreams:
        """Return what looks at it, and finds it under way."""
        return LongStreams(stride, lambda: [(self.asked, self.tally)])

    def ended(self, sketch: Sketch) -> None:
        self.parts.append(sketch)

    def export(self, sketch: Sketch, part: Sketch | Stage) -> None:
        self.parts.append(part)

    @property
    def events(self) -> list[str]:
        return [name for name, _, _ in self.request.events]


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


def test_word_is_given_ever_more_rarely_with_what_is_known() -> None:
    sampled = Sampled()
    tally = sampled.tally
    sampled.request.set_attribute("other", 1)
    sampled.asked.about = lambda: {"expertmesh.replica": "a"}
    watched = Watched(sampled.asked, tally, 10)
    for second in range(1, 3601):
        tally.count(2)
        watched.look(float(second))

    words = [part for part in sampled.parts if isinstance(part, Stage)]
    assert words == sampled.parts
    assert {word.name for word in words} == {PROGRESS}
    said = [word.about() for word in words]
    assert [one[SO_FAR] for one in said][:4] == [10, 30, 70, 150]
    assert len(words) == 16
    pauses = [one[NEXT_S] for one in said]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert said[0]["expertmesh.expert"] == "math"
    assert said[0]["expertmesh.replica"] == "a"
    assert "other" not in said[0]
    assert said[1]["expertmesh.stream.tokens_per_s"] == pytest.approx(2)
    assert said[-1]["expertmesh.stream.seconds"] == pytest.approx(3315)
    assert [(after.began, before.ended) for before, after in pairwise(words)] == [
        (before.ended, before.ended) for before in words[:-1]
    ]
    assert 8 <= [name for name, _, _ in watched.events].count(TOKENS) <= 60


def test_without_a_token_there_is_word_and_no_mark() -> None:
    sampled = Sampled()
    Watched(sampled.asked, Tally(), 10).look(5.0)
    [word] = sampled.parts
    assert isinstance(word, Stage)
    assert word.about()[SO_FAR] == 0
    assert not sampled.events


def test_of_what_may_never_be_exported_there_is_no_word() -> None:
    sampled = Sampled()
    sampled.request.kept = False
    Watched(sampled.asked, Tally(), 10).look(5.0)
    assert not sampled.parts
    assert not sampled.request.stages


async def test_the_last_look_marks_what_was_over_before_the_first_and_gives_no_word() -> None:
    sampled = Sampled()
    sampled.tally.count(25)
    sampled.streams(10).end(sampled.asked, sampled.tally)
    assert sampled.events == [TOKENS]
    assert not sampled.parts


async def test_the_timer_looks_at_those_that_run_and_goes_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_streams, "LOOK_EVERY_S", 0.001)
    sampled = Sampled()
    running = [(sampled.asked, sampled.tally)]
    streams = LongStreams(10, lambda: running)
    streams.wake()
    sampled.tally.count(10)
    await eventually(lambda: streams._watched and streams._watched[sampled.tally].events)
    running.clear()
    streams.end(sampled.asked, sampled.tally)
    assert sampled.events == [TOKENS]
    await eventually(lambda: streams.asleep)


def test_a_span_has_so_many_marks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_streams, "STRIDES_ALIKE", 10 * MOST_EVENTS)
    sampled = Sampled()
    watched = Watched(sampled.asked, sampled.tally, 1)
    for _ in range(3 * MOST_EVENTS):
        sampled.tally.count(1)
        watched.mark()
    assert len(watched.events) == MOST_EVENTS


async def test_what_is_not_recorded_is_not_looked_at() -> None:
    for span in (UNTRACED, NAMELESS, LeftOut(7, "", "")):
        asked, tally = Asked(Deadline(), "", span, 0.0), Tally()
        streams = LongStreams(10, lambda asked=asked, tally=tally: [(asked, tally)])
        tally.count(25)
        streams._look()
        streams.end(asked, tally)
        assert streams.asleep
        assert not asked.events


async def test_what_may_be_told_of_later_is_looked_at_and_gives_no_word() -> None:
    asked, tally = Asked(Deadline(), "", RETOLD, 0.0), Tally()
    streams = LongStreams(10, lambda: [(asked, tally)])
    tally.count(25)
    streams._look()
    streams.end(asked, tally)
    assert [name for name, _, _ in asked.events] == [TOKENS]
    assert not asked.parts
    streams._timer.cancel()
