"""What a caller writes becomes the message that the contract wants, or a mistake that is named."""

import pytest

import expertmesh_client
from expertmesh.v1.generation_pb2 import ChatMessage, Part, Precision, Role
from expertmesh_client import BadInput, Sampling
from expertmesh_client.asking import request_of
from expertmesh_client.call_span import address_of


def test_a_prompt_travels_as_it_is():
    request = request_of(" 7 × 8? ", expert="math", request_id="r-1")

    assert (request.prompt, request.expert, request.request_id) == (" 7 × 8? ", "math", "r-1")
    assert not request.HasField("sampling")


def test_a_conversation_and_a_precision_travel_along():
    request = request_of("and 9?", conversation="c-1", precision="lower")

    assert (request.conversation, request.precision) == ("c-1", Precision.PRECISION_LOWER)
    assert request_of("x").precision == Precision.PRECISION_UNSPECIFIED


def test_an_empty_prompt_is_left_to_the_server_to_refuse():
    assert request_of("").WhichOneof("input") == "prompt"


@pytest.mark.parametrize(
    "message",
    [("user", "hello"), {"role": "user", "content": "hello"}, ChatMessage(role=2, parts=[Part(text="hello")])],
)
def test_a_turn_is_written_as_a_pair_a_mapping_or_a_message(message):
    request = request_of(messages=[("system", "be kind"), message])

    assert [turn.role for turn in request.chat.messages] == [Role.ROLE_SYSTEM, Role.ROLE_USER]
    assert request.chat.messages[1].parts[0].text == "hello"


def test_token_ids_travel_as_they_are():
    assert list(request_of(token_ids=iter([1, 2, 3])).token_ids.ids) == [1, 2, 3]


def test_sampling_is_a_message_or_its_fields():
    fields = {"max_new_tokens": 5, "temperature": 0, "stop": ["\n"], "structured_output": {"regex": "[0-9]+"}}

    assert request_of("x", sampling=fields).sampling == request_of("x", sampling=Sampling(**fields)).sampling
    assert request_of("x", sampling=fields).sampling.HasField("temperature")


@pytest.mark.parametrize(
    ("asked", "reason", "field"),
    [
        ({}, "INPUT_MISSING", "input"),
        ({"prompt": "x", "token_ids": [1]}, "REQUEST_REFUSED", "input"),
        ({"messages": [("wizard", "x")]}, "ROLE_UNKNOWN", "chat.messages[0].role"),
        ({"messages": [{"content": "x"}]}, "ROLE_UNKNOWN", "chat.messages[0].role"),
        ({"prompt": "\ud800"}, "MESSAGE_MALFORMED", "prompt"),
        ({"prompt": "x", "conversation": "\ud800"}, "MESSAGE_MALFORMED", "conversation"),
        ({"prompt": "x", "precision": "half"}, "REQUEST_REFUSED", "precision"),
        ({"token_ids": [-1]}, "TOKEN_OUT_OF_VOCABULARY", "token_ids.ids"),
        ({"token_ids": [2**32]}, "TOKEN_OUT_OF_VOCABULARY", "token_ids.ids"),
        ({"prompt": "x", "sampling": {"top_k": -1}}, "SAMPLING_OUT_OF_RANGE", "sampling.top_k"),
        ({"prompt": "x", "sampling": {"seed": "one"}}, "SAMPLING_OUT_OF_RANGE", "sampling.seed"),
        ({"prompt": "x", "sampling": {"heat": 1}}, "REQUEST_REFUSED", "sampling.heat"),
    ],
)
def test_what_no_message_can_carry_is_refused_before_it_is_sent(asked, reason, field):
    with pytest.raises(BadInput) as refused:
        request_of(**asked)

    assert (refused.value.reason, refused.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("localhost:50050", ("localhost", 50050)),
        ("dns:///mesh.example:443", ("mesh.example", 443)),
        ("[::1]:50050", ("::1", 50050)),
        ("mesh.example", ("mesh.example", None)),
    ],
)
def test_a_target_has_a_host_and_perhaps_a_port(target, address):
    assert address_of(target) == address


def test_every_name_that_the_package_offers_is_there():
    for name in expertmesh_client.__all__:
        assert getattr(expertmesh_client, name) is not None
    assert set(expertmesh_client.__all__) <= set(dir(expertmesh_client))
    with pytest.raises(AttributeError, match="no attribute 'Wizard'"):
        expertmesh_client.Wizard  # noqa: B018
