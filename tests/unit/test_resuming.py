"""What an answer that was cut off is resumed with."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expert_svc.simulated_text import Speech, prompt_tokens
from expertmesh.v1.generation_pb2 import FinishReason, GenerateRequest, Resume, Sampling, StructuredOutput
from expertmesh_client.moving import Moving
from mesh_wire import validation
from mesh_wire.errors import BadInput, MeshError, Unavailable
from mesh_wire.resuming import Delivered, continued_seed, name_of, obstacle
from support.asking import greedy

LENGTH = 24


def test_what_was_delivered_is_kept_in_order() -> None:
    delivered = Delivered()
    delivered.add("Héllo", [1, 2])
    delivered.add("", [3])
    delivered.add(" wörld", [])

    delivered.times += 1

    assert delivered.resume() == Resume(token_ids=[1, 2, 3], text="Héllo wörld", times=1)


def test_what_was_delivered_goes_on_from_what_the_caller_had() -> None:
    delivered = Delivered(Resume(token_ids=[1, 2], text="ab"))
    delivered.add("c", [3])
    delivered.times += 1

    assert delivered.resume() == Resume(token_ids=[1, 2, 3], text="abc", times=2)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(temperature=0, repetition_penalty=1.3, seed=3, stop=["x"], logprobs=3, logit_bias={1: 2.0}), ""),
        (Sampling(presence_penalty=0.0, frequency_penalty=0.0), ""),
        (Sampling(presence_penalty=0.5), "sampling.presence_penalty"),
        (Sampling(frequency_penalty=-0.5), "sampling.frequency_penalty"),
        (Sampling(structured_output=StructuredOutput(regex="a+")), "sampling.structured_output"),
    ],
)
def test_what_counts_from_the_answers_beginning_cannot_go_on(sampling: Sampling, field: str) -> None:
    assert obstacle(GenerateRequest(prompt="a", sampling=sampling)) == field


def test_a_continued_seed_depends_on_seed_and_length_and_is_in_range() -> None:
    seeds = {continued_seed(seed, tokens) for seed in (0, 1, 2**63 - 1) for tokens in (1, 2, 1000)}

    assert len(seeds) == 9
    assert continued_seed(7, 3) == continued_seed(7, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_each_part_of_an_answer_has_a_name_of_its_own() -> None:
    whole = GenerateRequest(request_id="r")
    parts = [GenerateRequest(request_id="r", resume=Resume(token_ids=[7], times=times)) for times in (0, 1, 2)]

    assert [name_of(part) for part in (whole, *parts)] == ["r", "r part 2", "r part 2", "r part 3"]
    unbegun = [GenerateRequest(request_id="r", resume=Resume(times=times)) for times in (0, 1, 2)]
    assert [name_of(part) for part in unbegun] == ["r part 1", "r part 2", "r part 3"]


def test_each_attempt_at_an_answer_has_a_name_of_its_own() -> None:
    request = GenerateRequest(request_id="r")
    moving, gone = Moving(request, 2), Unavailable("gone", reason="EXPERT_LOST")
    names = [name_of(moving.request)]
    for tokens in ([], [], [7], []):
        moving.delivered.add("a" * len(tokens), tokens)
        moving.move(gone, "math")
        names.append(name_of(moving.request))
        again = Delivered(moving.request.resume)  # as a router has it, which may be cut off itself
        again.times += 1
        names.append(name_of(GenerateRequest(request_id="r", resume=again.resume())))

    assert len({*names}) == len(names)
    assert moving.request.resume.times == 1  # it was cut off in its midst once
    assert not request.HasField("resume")  # which is the caller's own


@pytest.mark.parametrize(
    ("resume", "reason", "field"),
    [
        (Resume(text="a"), "RESUME_INVALID", "resume.text"),
        (Resume(token_ids=[1] * 13, text="a"), "RESUME_INVALID", "resume.token_ids"),
    ],
)
def test_a_resume_that_cannot_be_is_refused(resume: Resume, reason: str, field: str) -> None:
    request = greedy()
    request.resume.CopyFrom(resume)

    with pytest.raises(BadInput) as refused:
        validation.check(request)

    assert (refused.value.reason, refused.value.field) == (reason, field)


def test_an_answer_that_cannot_go_on_is_refused_by_name_unless_it_had_not_begun() -> None:
    request = greedy(presence_penalty=1.0)
    request.resume.times = 1
    validation.check(request)
    request.resume.token_ids.append(1)

    with pytest.raises(MeshError) as refused:
        validation.check(request)

    assert (refused.value.reason, refused.value.field) == ("RESUME_UNSUPPORTED", "sampling.presence_penalty")


# Speech of a simulated expert, cut at every place


@dataclass
class Answer:
    """What came of a speech, up to where it was cut."""

    text: str
    tokens: list[int]
    reason: FinishReason | None
    matched: str | int | None


def speech(request: GenerateRequest) -> Speech:
    return Speech(
        "math",
        prompt_tokens(request, 50_000),
        request.sampling,
        max_new_tokens=LENGTH,
        vocabulary_size=50_000,
        ends_one_in=12,
    )


def said(request: GenerateRequest, at_most: int = LENGTH, before: Answer | None = None) -> Answer:
    """Let an expert speak, from the beginning or after what was said before."""
    speaking = speech(request)
    answer = Answer("", [], None, None)
    if before is not None:
        answer = Answer(before.text + speaking.recall(before.tokens, before.text), list(before.tokens), None, None)
    while speaking.reason is None and len(answer.tokens) < at_most:
        one = speaking.next()
        answer.text += one.text
        answer.tokens.append(one.token)
    answer.reason, answer.matched = speaking.reason, speaking.matched
    return answer


def stops_of(text: str) -> list[list[str]]:
    """Return lists of stop strings: none; within a word; across words, one within another; never met."""
    middle = len(text) // 2
    return [[], [text[middle : middle + 2]], [text[middle - 3 : middle + 9], text[middle : middle + 4]], ["!" * 9]]


@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 6), st.booleans())
def test_an_answer_cut_anywhere_goes_on_as_if_it_had_not_been(
    prompt: int, stops: int, min_new_tokens: int, ignore_eos: bool
) -> None:
    request = greedy(f"prompt {prompt}", max_new_tokens=LENGTH, ignore_eos=ignore_eos, min_new_tokens=min_new_tokens)
    request.sampling.stop.extend(stops_of(said(request).text)[stops])
    whole = said(request)

    for cut in range(len(whole.tokens) + 1):
        assert said(request, before=said(request, cut)) == whole


@pytest.mark.parametrize("text", ["never said", "x"])
def test_a_text_that_the_tokens_do_not_say_is_noticed(text: str) -> None:
    part = said(greedy(), 5)
    with pytest.raises(ValueError, match="another text"):
        speech(greedy()).recall(part.tokens, text)


def test_tokens_after_the_end_are_noticed() -> None:
    request = greedy(ignore_eos=True, max_new_tokens=LENGTH)
    tokens = said(request).tokens
    with pytest.raises(ValueError, match="after the end"):
        speech(request).recall([*tokens, 5], "")
