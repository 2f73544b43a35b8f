"""Prompts to scores, in batches of whatever is waiting."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Role, TokenIds
from router_svc.classification import Classifier, text_of


class Counting:
    """Scores a prompt by its length, and keeps the sizes of its batches."""

    name, experts, generation = "counting", ("short", "long"), "1"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(len(prompts))
        if "explode" in prompts:
            raise ZeroDivisionError
        return np.array([[1, 0] if len(prompt) < 3 else [0, 1] for prompt in prompts], np.float32)


async def test_what_arrives_together_is_scored_together() -> None:
    strategy = Counting()
    classifier = Classifier(strategy)

    rows = await asyncio.gather(*(classifier.scores("x" * length) for length in range(1, 6)))

    assert strategy.batches == [5]
    assert [row["long"] for row in rows] == [0, 0, 1, 1, 1]


async def test_nobody_waits_for_company() -> None:
    strategy = Counting()
    classifier = Classifier(strategy)
    for _ in range(3):
        assert await classifier.scores("x") == {"short": 1, "long": 0}

    assert strategy.batches == [1, 1, 1]


async def test_one_that_left_does_not_disturb_its_batch() -> None:
    classifier = Classifier(Counting())
    left, stays = (asyncio.ensure_future(classifier.scores("x")) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()

    assert await stays == {"short": 1, "long": 0}


async def test_a_fault_of_the_strategy_reaches_its_batch_and_no_later_one() -> None:
    classifier = Classifier(Counting())
    told = await asyncio.gather(classifier.scores("explode"), classifier.scores("x"), return_exceptions=True)

    assert [type(one) for one in told] == [ZeroDivisionError] * 2
    assert (await classifier.scores("x"))["short"] == 1


def turn(role: int, *texts: str) -> ChatMessage:
    return ChatMessage(role=role, parts=[Part(text=text) for text in texts])


CHAT = Chat(messages=[turn(Role.ROLE_SYSTEM, "s"), turn(Role.ROLE_USER, "a"), turn(Role.ROLE_USER, "b", "c")])


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (GenerateRequest(prompt="hello"), "hello"),
        (GenerateRequest(chat=CHAT), "bc"),
        (GenerateRequest(token_ids=TokenIds(ids=[1])), ""),
    ],
)
def test_a_router_reads_the_prompt_or_the_last_user_turn(request_: GenerateRequest, text: str) -> None:
    assert text_of(request_) == text
