"""How chaos judges an answer, and a run."""

from typing import Any

import pytest

from benchmarks.chaos.recorder import Recorder, flaw
from benchmarks.chaos.verdict import Seen, growth, passed, verdict
from expert_svc.simulated_text import expected_answer
from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, Sampling, Usage

WANTED = [11, 12, 13, 14, 15, 16, 17, 18]


@pytest.mark.parametrize(
    ("came", "word"),
    [
        (WANTED, ""),
        (WANTED[:5], "lost"),
        ([], "lost"),
        (WANTED[:3] + WANTED[5:], "lost"),
        (WANTED[:7] + WANTED[:0] + [99], "wrong"),
        (WANTED[:4] + WANTED[2:], "doubled"),
        ([*WANTED, 18], "doubled"),
        (WANTED[:4] + WANTED, "doubled"),
        ([*WANTED[:3], 71, 72, 73, *WANTED[3:]], "crossed"),
        ([*WANTED[:3], 91, *WANTED[4:]], "wrong"),
    ],
)
def test_tokens_that_are_not_as_they_should_be_are_named(came: list[int], word: str) -> None:
    assert flaw(WANTED, came, others=[[70, 71, 72, 73, 74]]) == word


def answer(request: GenerateRequest) -> tuple[Recorder, str, list[int]]:
    recorder = Recorder(request, began=0.0)
    recorder.routed("math")
    return recorder, *expected_answer("math", request)


def finished(tokens: int) -> Finished:
    return Finished(usage=Usage(completion_tokens=tokens), resumed=1)


REQUEST = GenerateRequest(prompt="what is six times seven", sampling=Sampling(max_new_tokens=6))


def test_an_answer_that_comes_in_parts_is_good_and_its_longest_gap_is_known() -> None:
    recorder, text, tokens = answer(REQUEST)
    words = [f" {word}" for word in text.split()]
    recorder.delta(Delta(text="".join(words[:2]), token_ids=tokens[:2]), 1.0)
    recorder.delta(Delta(text="".join(words[2:3]), token_ids=tokens[2:3]), 3.5)
    recorder.delta(Delta(text="".join(words[3:]), token_ids=tokens[3:]), 3.75)
    recorder.finished(finished(6))
    assert recorder.verdict() == "good"
    assert (recorder.first, recorder.gap_s, recorder.gap_at, recorder.resumed) == (1.0, 2.5, 1.0, 1)


def test_an_answer_without_an_end_is_lost_and_one_with_two_is_doubled() -> None:
    recorder, text, tokens = answer(REQUEST)
    recorder.delta(Delta(text=text, token_ids=tokens), 1.0)
    assert recorder.verdict() == "lost"
    recorder.finished(finished(6))
    recorder.finished(finished(6))
    assert recorder.verdict() == "doubled"


def test_right_tokens_with_another_text_or_another_count_are_wrong() -> None:
    for text_of, count in ((str.upper, 6), (str, 7)):
        recorder, text, tokens = answer(REQUEST)
        recorder.delta(Delta(text=text_of(text), token_ids=tokens), 1.0)
        recorder.finished(finished(count))
        assert recorder.verdict() == "wrong"


def test_an_answer_is_astray_from_its_first_wrong_token_on() -> None:
    recorder, _, tokens = answer(REQUEST)
    recorder.delta(Delta(token_ids=tokens[:2]), 1.0)
    assert not recorder.astray
    recorder.delta(Delta(token_ids=[tokens[2] + 1]), 1.0)
    assert recorder.astray


def row(outcome: str = "good", gap_s: float = 0.1, resumed: int = 0) -> dict[str, Any]:
    return {"outcome": outcome, "gap_s": gap_s, "resumed": resumed, "words": ""}


def test_a_run_of_good_answers_passes() -> None:
    assert passed(verdict(Seen(rows=[row(), row("left"), row(resumed=1)]), gap_limit_s=1.0))


@pytest.mark.parametrize(
    "seen",
    [
        Seen(rows=[]),
        Seen(rows=[row(), row("crossed")]),
        Seen(rows=[row(), row("UNAVAILABLE EXPERT_LOST")]),
        Seen(rows=[row()], open=1),
        Seen(rows=[row()], amiss="router-0 has 5 of 6 replicas"),
        Seen(rows=[row()], crashes=["math-1 ended by itself"]),
        Seen(rows=[row()], orphans=["process 12"]),
        Seen(rows=[row()], memory=[("router-0", [(float(at), 60 + at / 10) for at in range(400)])]),
    ],
    ids=["nothing", "crossed", "failed", "open", "places", "crash", "orphan", "memory"],
)
def test_a_run_fails_by_any_one_thing(seen: Seen) -> None:
    assert not passed(verdict(seen))


def test_gaps_are_judged_only_where_there_is_an_aim_and_then_those_of_answers_that_were_cut_off() -> None:
    rows = [row(gap_s=9.0), row(gap_s=2.0, resumed=1)]
    assert passed(verdict(Seen(rows=rows)))
    assert passed(verdict(Seen(rows=rows), gap_limit_s=3.0))
    assert not passed(verdict(Seen(rows=rows), gap_limit_s=1.0))


def test_growth_is_told_of_processes_that_lived_long_enough_and_what_they_fill_at_first_does_not_count() -> None:
    assert growth([(0.0, 50.0), (100.0, 90.0)]) is None
    filled = [(float(at), min(80.0, 40.0 + 2 * at)) for at in range(400)]
    assert growth(filled) == pytest.approx(0.0, abs=0.01)
    assert growth([(float(at), 40.0 + at / 60) for at in range(400)]) == pytest.approx(1.0)
