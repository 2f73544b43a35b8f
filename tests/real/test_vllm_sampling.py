"""From the contract's wishes to vLLM's parameters and from its outputs to ours; needs vLLM's classes and no engine."""

from typing import Any

import pytest

from expert_svc.engine import Chunk, Ended, Milestones
from expertmesh.v1.generation_pb2 import FinishReason, Sampling
from mesh_wire.errors import BadInput, Internal

pytestmark = [
    pytest.mark.real,
    # Their own use of their own old names, while they are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|vllm|transformers|jinja2)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|vllm|transformers)"),
]


def params(defaults: dict[str, Any] | None = None, *, room: int = 100, **wishes: Any) -> Any:
    from expert_svc.vllm_engine.sampling import sampling_params

    return sampling_params(Sampling(**wishes), defaults or {}, room=room, vocabulary_size=1000)


def test_every_wish_reaches_vllm() -> None:
    made = params(
        temperature=0.5,
        top_p=0.75,
        top_k=7,
        min_p=0.125,
        seed=3,
        stop=["a", "b"],
        stop_token_ids=[4, 5],
        max_new_tokens=9,
        min_new_tokens=2,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        logprobs=6,
        logit_bias={8: -2},
        ignore_eos=True,
    )

    assert (made.temperature, made.top_p, made.top_k, made.min_p, made.seed) == (0.5, 0.75, 7, 0.125, 3)
    assert (made.stop, made.stop_token_ids, made.max_tokens, made.min_tokens) == (["a", "b"], [4, 5], 9, 2)
    assert (made.presence_penalty, made.frequency_penalty, made.repetition_penalty) == (1, -1, 1.5)
    assert (made.logprobs, made.logit_bias, made.ignore_eos) == (6, {8: -2}, True)
    assert made.output_kind.name == "DELTA"


@pytest.mark.parametrize("form", ["json_schema", "regex", "grammar"])
def test_every_form_reaches_vllm(form: str) -> None:
    made = params(structured_output={form: "{}"}).structured_outputs
    assert getattr(made, form.removesuffix("_schema")) == "{}"


def test_a_choice_reaches_vllm() -> None:
    assert params(structured_output={"choice": {"options": ["a", "b"]}}).structured_outputs.choice == ["a", "b"]


def test_absent_fields_take_the_models_defaults() -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, "max_tokens": 30}

    made = params(defaults, top_k=0)

    assert (made.temperature, made.top_k, made.repetition_penalty, made.max_tokens) == (0.6, 0, 1.1, 30)
    assert made.logprobs is made.seed is made.logit_bias is None


def test_present_zeros_are_wishes() -> None:
    made = params({"temperature": 0.6, "min_p": 0.5}, temperature=0, logprobs=0)
    assert (made.temperature, made.logprobs) == (0, 0)


@pytest.mark.parametrize(
    ("wished", "default", "given"), [(None, None, 100), (30, None, 30), (500, None, 100), (None, 500, 100), (1, 7, 1)]
)
def test_max_new_tokens_are_cut_to_the_room(wished: int | None, default: int | None, given: int) -> None:
    wishes = {} if wished is None else {"max_new_tokens": wished}
    assert params({"max_tokens": default} if default else {}, **wishes).max_tokens == given


def test_min_new_tokens_outweigh_the_models_own_maximum() -> None:
    assert params({"max_tokens": 5}, min_new_tokens=8).max_tokens == 8


def test_numbers_that_would_overflow_in_the_engine_are_brought_into_range() -> None:
    made = params(seed=2**64 - 1, top_k=2**32 - 1)
    assert (made.seed, made.top_k) == (2**63 - 1, 1000)


@pytest.mark.parametrize(
    ("wishes", "reason", "field"),
    [
        ({"temperature": 3}, "SAMPLING_OUT_OF_RANGE", "sampling.temperature"),
        ({"presence_penalty": 3}, "SAMPLING_OUT_OF_RANGE", "sampling.presence_penalty"),
        ({"min_p": 2}, "SAMPLING_OUT_OF_RANGE", "sampling.min_p"),
        ({"stop_token_ids": [1, 1000]}, "TOKEN_OUT_OF_VOCABULARY", "sampling.stop_token_ids[1]"),
        ({"logit_bias": {1000: 1}}, "TOKEN_OUT_OF_VOCABULARY", "sampling.logit_bias[1000]"),
        ({"structured_output": {}}, "STRUCTURE_INVALID", "sampling.structured_output"),
    ],
    ids=str,
)
def test_what_vllm_refuses_is_named_by_our_field(wishes: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        params(**wishes)
    assert (refused.value.reason, refused.value.field) == (reason, field)


def test_a_refusal_of_no_known_cause_is_still_the_callers() -> None:
    from expert_svc.vllm_engine.sampling import refusal

    assert refusal(ValueError("not\ntoday"), Sampling()).reason == "REQUEST_REFUSED"
    assert refusal(ValueError("not\ntoday"), Sampling()).message == "not today"


def output(text: str = "", ids: list[int] | None = None, **end: Any) -> Any:
    """Return what vLLM yields: the new text and tokens, and the end when there is one."""
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.metrics.stats import RequestStateStats

    new = CompletionOutput(0, text, ids or [], None, end.pop("logprobs", None), **end)
    stats = RequestStateStats(queued_ts=1.0, scheduled_ts=2.0, first_token_ts=3.0)
    return RequestOutput("id", None, [1], None, [new], bool(new.finish_reason), metrics=stats, num_cached_tokens=16)


def answer(**wishes: Any) -> Any:
    from expert_svc.vllm_engine.answers import Answer

    return Answer(Sampling(**wishes), prompt_tokens=20, request_id="me")


def test_an_answer_is_its_chunks_and_its_end() -> None:
    ours, last = answer(), output(" there", [7], finish_reason="length")

    assert ours.chunk(output("hello", [5, 6])) == Chunk("hello", [5, 6])
    assert ours.chunk(output()) is None
    assert ours.chunk(last) == Chunk(" there", [7])
    assert ours.ended(last) == Ended(
        reason=FinishReason.FINISH_REASON_LENGTH,
        prompt_tokens=20,
        completion_tokens=3,
        cached_prompt_tokens=16,
        milestones=Milestones(queued=1.0, scheduled=2.0, first_token=3.0, last_token=None),
    )


@pytest.mark.parametrize(
    ("stop_reason", "last_token", "matched"),
    [("END", 9, "END"), (7, 7, 7), (None, 7, 7), (None, 2, None), (99, 99, None)],
    ids=["string", "token", "token that also ends the sequence", "end of sequence", "the model's second end token"],
)
def test_only_what_the_request_named_is_matched(
    stop_reason: str | int | None, last_token: int, matched: str | int | None
) -> None:
    ours = answer(stop=["END"], stop_token_ids=[7])
    last = output("", [last_token], finish_reason="stop", stop_reason=stop_reason)
    ours.chunk(last)

    assert ours.ended(last).matched == matched


def test_logprobs_come_in_order_of_rank_and_no_more_than_asked_for() -> None:
    from vllm.logprobs import Logprob

    position = {9: Logprob(-3.0, 40, " rare"), 5: Logprob(-0.5, 1, " a"), 6: Logprob(-0.75, 2, None)}
    [entry] = answer(logprobs=2).chunk(output(" rare", [9], logprobs=[position])).logprobs

    assert (entry.drawn.token_id, entry.drawn.text, entry.drawn.logprob, entry.drawn.rank) == (9, " rare", -3.0, 40)
    assert [(top.token_id, top.text, top.rank) for top in entry.top] == [(5, " a", 1), (6, "", 2)]


def test_a_request_that_the_engine_gave_up_is_an_error() -> None:
    with pytest.raises(Internal):
        answer().ended(output(finish_reason="error"))
    with pytest.raises(BadInput) as refused:
        answer(structured_output={"regex": "a"}).ended(output(finish_reason="error"))
    assert refused.value.reason == "STRUCTURE_INVALID"
