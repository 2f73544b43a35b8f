"""Which replica is a conversation's own."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Role
from router_svc.choosing.affinity import Homes, conversation_of

SYSTEM, USER, ASSISTANT = Role.ROLE_SYSTEM, Role.ROLE_USER, Role.ROLE_ASSISTANT
FIRST = [(SYSTEM, "Be brief."), (USER, "What is a river?")]
SECOND = [*FIRST, (ASSISTANT, "Water that runs."), (USER, "Where to?")]


def chat(turns: list[tuple[Role, str]]) -> GenerateRequest:
    messages = [ChatMessage(role=role, parts=[Part(text=text)]) for role, text in turns]
    return GenerateRequest(chat=Chat(messages=messages))


def test_later_turns_belong_to_the_same_conversation() -> None:
    third = [*SECOND, (ASSISTANT, "To the sea."), (USER, "Why?")]

    assert conversation_of(chat(SECOND)) == conversation_of(chat(third)) is not None


@pytest.mark.parametrize(
    "other",
    [
        [(SYSTEM, "Be long."), *SECOND[1:]],
        [FIRST[0], (USER, "What is a lake?"), *SECOND[2:]],
        [(SYSTEM, "Be brief.W"), (USER, "hat is a river?"), *SECOND[2:]],
        SECOND[1:],
    ],
)
def test_another_beginning_is_another_conversation(other: list[tuple[Role, str]]) -> None:
    assert conversation_of(chat(other)) != conversation_of(chat(SECOND))


@pytest.mark.parametrize("request_", [GenerateRequest(prompt="hello"), chat(FIRST), chat(FIRST[1:])])
def test_a_request_without_earlier_turns_belongs_to_none(request_: GenerateRequest) -> None:
    assert conversation_of(request_) is None


def test_a_named_conversation_is_known_by_its_name_alone() -> None:
    prompt, turns = GenerateRequest(prompt="hello", conversation="one"), chat(SECOND)
    turns.conversation = "one"

    assert conversation_of(prompt) == conversation_of(turns) is not None


def test_two_processes_agree_without_a_word() -> None:
    said = (
        "from router_svc.choosing.affinity import *; from expertmesh.v1.generation_pb2 import GenerateRequest as G; "
        "print(conversation_of(G(prompt='x', conversation='one')), Homes(['b:1', 'a:1', 'c:1']).of(12345))"
    )
    told = subprocess.run(  # noqa: S603  # our own words
        [sys.executable, "-c", said], check=True, capture_output=True, text=True
    ).stdout.split()

    assert told == [
        str(conversation_of(GenerateRequest(prompt="y", conversation="one"))),
        Homes(["a:1", "b:1", "c:1"]).of(12345),
    ]


@given(st.sets(st.integers(0, 300), min_size=2, max_size=40), st.integers(0, 2**64 - 1))
def test_a_replica_that_leaves_takes_only_its_own_conversations(numbers: set[int], conversation: int) -> None:
    endpoints = [f"10.0.0.{n}:1" for n in numbers]
    home = Homes(endpoints).of(conversation)

    for gone in endpoints:
        if gone != home:
            assert Homes(set(endpoints) - {gone}).of(conversation) == home
