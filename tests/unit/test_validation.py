"""What makes a request wrong whatever the model."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.generation_pb2 import (
    Chat,
    ChatMessage,
    Choice,
    GenerateRequest,
    Image,
    Part,
    Role,
    Sampling,
    StructuredOutput,
    TokenIds,
)
from mesh_wire.errors import BadInput, MeshError, Unsupported
from mesh_wire.validation import MAX_BIASES, MAX_NAME, MAX_STOP_LENGTH, MAX_STOP_TOKENS, MAX_STOPS, check

SYSTEM, USER, ASSISTANT = Role.ROLE_SYSTEM, Role.ROLE_USER, Role.ROLE_ASSISTANT

uint32 = st.integers(0, 2**32 - 1)
floats = st.floats(width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
parts = st.builds(Part, text=texts) | st.builds(Part, image=st.builds(Image, uri=texts)) | st.just(Part())
messages = st.builds(ChatMessage, role=st.integers(-1, 5), parts=st.lists(parts, max_size=3))
forms = st.one_of(
    st.builds(
        StructuredOutput, json_schema=texts | st.sampled_from(["{}", "true", "[]", "NaN", "[" * 5000, "9" * 5000])
    ),
    st.builds(StructuredOutput, regex=texts),
    st.builds(StructuredOutput, choice=st.builds(Choice, options=st.lists(texts, max_size=3))),
    st.builds(StructuredOutput, grammar=texts),
    st.just(StructuredOutput()),
)
samplings = st.builds(
    Sampling,
    temperature=st.none() | floats,
    top_p=st.none() | floats,
    top_k=st.none() | uint32,
    min_p=st.none() | floats,
    seed=st.none() | st.integers(0, 2**64 - 1),
    stop=st.lists(texts, max_size=20),
    stop_token_ids=st.lists(uint32, max_size=70),
    max_new_tokens=st.none() | uint32,
    min_new_tokens=st.none() | uint32,
    presence_penalty=st.none() | floats,
    frequency_penalty=st.none() | floats,
    repetition_penalty=st.none() | floats,
    logprobs=st.none() | uint32,
    logit_bias=st.dictionaries(uint32, floats, max_size=5),
    ignore_eos=st.none() | st.booleans(),
    structured_output=st.none() | forms,
)
requests = st.one_of(
    st.builds(GenerateRequest, request_id=texts, prompt=texts, expert=texts, sampling=st.none() | samplings),
    st.builds(GenerateRequest, chat=st.builds(Chat, messages=st.lists(messages, max_size=4))),
    st.builds(GenerateRequest, token_ids=st.builds(TokenIds, ids=st.lists(uint32, max_size=5))),
    st.just(GenerateRequest()),
)


@given(requests)
def test_any_request_passes_or_is_refused_by_name(request: GenerateRequest) -> None:
    before = request.SerializeToString(deterministic=True)
    error = verdict(request)

    assert error is None or (
        isinstance(error, BadInput | Unsupported) and error.reason and error.field and error.message
    )
    assert request.SerializeToString(deterministic=True) == before


@given(st.binary(max_size=200))
def test_anything_that_parses_passes_or_is_refused_by_name(raw: bytes) -> None:
    try:
        request = GenerateRequest.FromString(raw)
    except Exception:  # not a message at all: the boundary's business
        return
    error = verdict(request)

    assert error is None or error.reason


def verdict(request: GenerateRequest) -> MeshError | None:
    """Return the refusal, if it is one; anything else that is raised fails the test."""
    try:
        check(request)
    except MeshError as error:
        return error
    return None


def refused(request: GenerateRequest) -> tuple[str, str]:
    with pytest.raises(BadInput) as refusal:
        check(request)
    return refusal.value.reason, refusal.value.field


def sampled(**sampling: Any) -> GenerateRequest:
    return GenerateRequest(prompt="hello", sampling=Sampling(**sampling))


def chat(*turns: ChatMessage) -> GenerateRequest:
    return GenerateRequest(chat=Chat(messages=turns))


def turn(role: int, *texts_: str) -> ChatMessage:
    return ChatMessage(role=role, parts=[Part(text=text) for text in texts_])


GOOD = {
    "prompt": GenerateRequest(prompt="hello"),
    "names": GenerateRequest(prompt="hello", request_id="x" * MAX_NAME, expert="数学"),
    "tokens": GenerateRequest(token_ids=TokenIds(ids=[0])),
    "chat": chat(
        turn(SYSTEM, "be brief"), turn(USER, "hi"), turn(ASSISTANT), turn(ASSISTANT, ""), turn(USER, "", "ho")
    ),
    "empty sampling": sampled(),
    "lowest": sampled(temperature=0, min_p=0, presence_penalty=-2, frequency_penalty=-2, logprobs=0, top_k=0, seed=0),
    "highest": sampled(temperature=2, top_p=1, min_p=1, presence_penalty=2, repetition_penalty=10, logprobs=20),
    "stops": sampled(stop=["x" * MAX_STOP_LENGTH] * MAX_STOPS, stop_token_ids=range(MAX_STOP_TOKENS)),
    "biases": sampled(logit_bias=dict.fromkeys(range(MAX_BIASES), -100.0)),
    "bounds": sampled(min_new_tokens=3, max_new_tokens=3),
    "schema": sampled(structured_output={"json_schema": '{"type": "object"}'}),
    "any schema": sampled(structured_output={"json_schema": "true"}),
    "choice": sampled(structured_output={"choice": {"options": ["yes", "no"]}}),
    "regex": sampled(structured_output={"regex": "[a-z]+"}),
    "grammar": sampled(structured_output={"grammar": 'root ::= "a"'}),
}
GOOD["chat"].chat.messages[2].parts.add().text = ""


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD.keys())
def test_what_is_allowed_passes(request_: GenerateRequest) -> None:
    check(request_)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.01, 2.01)),
        ("top_p", (0, -1, 1.01)),
        ("min_p", (-0.01, 1.01)),
        ("presence_penalty", (-2.01, 2.01)),
        ("frequency_penalty", (-2.01, 2.01)),
        ("repetition_penalty", (0, -1, 10.01)),
    ],
)
def test_sampling_out_of_range_is_refused(name: str, values: tuple[float, ...]) -> None:
    for value in (*values, math.nan, math.inf, -math.inf):
        assert refused(sampled(**{name: value})) == ("SAMPLING_OUT_OF_RANGE", f"sampling.{name}")


@pytest.mark.parametrize(
    ("name", "value"), [("max_new_tokens", 0), ("logprobs", 21), ("seed", 2**63), ("top_k", 2**31)]
)
def test_whole_numbers_out_of_range_are_refused(name: str, value: int) -> None:
    assert refused(sampled(**{name: value})) == ("SAMPLING_OUT_OF_RANGE", f"sampling.{name}")


@pytest.mark.parametrize("bias", [-100.1, 100.1, math.nan, math.inf])
def test_biases_out_of_range_are_refused(bias: float) -> None:
    assert refused(sampled(logit_bias={1: 0, 7: bias})) == ("SAMPLING_OUT_OF_RANGE", "sampling.logit_bias[7]")


FORM = "sampling.structured_output"
BAD = [
    (GenerateRequest(), "INPUT_MISSING", "input"),
    (GenerateRequest(prompt=""), "PROMPT_EMPTY", "prompt"),
    (GenerateRequest(prompt=" \r\n\u2003"), "PROMPT_EMPTY", "prompt"),
    (GenerateRequest(token_ids=TokenIds()), "PROMPT_EMPTY", "token_ids.ids"),
    (GenerateRequest(prompt="a", request_id="x" * (MAX_NAME + 1)), "NAME_INVALID", "request_id"),
    (GenerateRequest(prompt="a", expert="x\0"), "NAME_INVALID", "expert"),
    (GenerateRequest(prompt="a", conversation="x\n"), "NAME_INVALID", "conversation"),
    (chat(), "PROMPT_EMPTY", "chat.messages"),
    (chat(turn(USER)), "PROMPT_EMPTY", "chat.messages[0].parts"),
    (chat(turn(USER, "", " ")), "PROMPT_EMPTY", "chat.messages[0].parts"),
    (chat(ChatMessage(role=USER, parts=[Part()])), "PROMPT_EMPTY", "chat.messages[0].parts[0]"),
    (chat(turn(0, "a")), "ROLE_UNKNOWN", "chat.messages[0].role"),
    (chat(turn(USER, "a"), turn(4, "a")), "ROLE_UNKNOWN", "chat.messages[1].role"),
    (chat(turn(-1, "a")), "ROLE_UNKNOWN", "chat.messages[0].role"),
    (chat(turn(USER, "a"), turn(ASSISTANT, "b")), "CHAT_INVALID", "chat.messages[1].role"),
    (chat(turn(SYSTEM, "a")), "CHAT_INVALID", "chat.messages[0].role"),
    (sampled(min_new_tokens=2, max_new_tokens=1), "SAMPLING_CONTRADICTORY", "sampling.min_new_tokens"),
    (sampled(stop=["a"] * (MAX_STOPS + 1)), "STOP_INVALID", "sampling.stop"),
    (sampled(stop=["a", ""]), "STOP_INVALID", "sampling.stop[1]"),
    (sampled(stop=["x" * (MAX_STOP_LENGTH + 1)]), "STOP_INVALID", "sampling.stop[0]"),
    (sampled(stop_token_ids=range(MAX_STOP_TOKENS + 1)), "STOP_INVALID", "sampling.stop_token_ids"),
    (sampled(logit_bias=dict.fromkeys(range(MAX_BIASES + 1), 0.0)), "SAMPLING_OUT_OF_RANGE", "sampling.logit_bias"),
    (sampled(structured_output={}), "STRUCTURE_INVALID", FORM),
    *[
        (sampled(structured_output={"json_schema": text}), "STRUCTURE_INVALID", f"{FORM}.json_schema")
        for text in ("", "{", "[]", '"string"', "NaN", "{}{}", "[" * 100_000, "1" * 10_000)
    ],
    (sampled(structured_output={"regex": ""}), "STRUCTURE_INVALID", f"{FORM}.regex"),
    (sampled(structured_output={"grammar": " "}), "STRUCTURE_INVALID", f"{FORM}.grammar"),
    (sampled(structured_output={"choice": {}}), "STRUCTURE_INVALID", f"{FORM}.choice.options"),
    (sampled(structured_output={"choice": {"options": ["a", ""]}}), "STRUCTURE_INVALID", f"{FORM}.choice.options"),
]


@pytest.mark.parametrize(("request_", "reason", "field"), BAD)
def test_each_mistake_has_its_reason_and_field(request_: GenerateRequest, reason: str, field: str) -> None:
    assert refused(request_) == (reason, field)


def test_an_image_is_refused_as_not_served_yet() -> None:
    with pytest.raises(Unsupported) as refusal:
        check(chat(ChatMessage(role=USER, parts=[Part(text="a"), Part(image=Image(uri="b"))])))

    assert (refusal.value.reason, refusal.value.field) == ("IMAGE_UNSUPPORTED", "chat.messages[0].parts[1].image")


def test_what_was_wrong_is_not_repeated_at_length() -> None:
    with pytest.raises(BadInput) as refusal:
        check(sampled(structured_output={"json_schema": "{" + "secret" * 1000}))

    assert "secret" not in refusal.value.message
