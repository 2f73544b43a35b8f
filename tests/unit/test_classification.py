"""Prompts to scores, in batches of whatever is waiting."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Role, TokenIds
from mesh_wire.telemetry import Telemetry
from router_svc.classifying.classification import Classifier
from router_svc.classifying.conversation import Reading, joined, reading_of, text_of
from support.stages import TwoStaged
from support.strategies import ByWord
from support.waiting import eventually


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


async def test_a_fault_of_a_strategy_leaves_its_batch_with_even_scores_and_passes() -> None:
    classifier = Classifier(Counting())

    found = await asyncio.gather(classifier.scored("explode"), classifier.scored("x"))

    assert [(one.scores, one.strategy, one.intended, one.fallback, one.margin) for one in found] == [
        ({"short": 0.5, "long": 0.5}, "none", "counting", "strategy_failed", 0.0)
    ] * 2
    assert (await classifier.scored("x")).fallback == ""


async def test_a_fault_is_logged_once_until_it_passes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "router_svc.classifying.classification")
    classifier = Classifier(Counting())
    for text in ("explode", "explode", "x", "x"):
        await classifier.scored(text)

    assert [record.getMessage() for record in caplog.records] == [
        "strategy counting failed on 1 prompts",
        "strategy counting works again",
    ]


@pytest.fixture
async def staged() -> AsyncIterator[tuple[TwoStaged, Classifier]]:
    strategy = TwoStaged()
    async with aclosing(Classifier(strategy, budget_s=30)) as classifier:
        yield strategy, classifier
    strategy.go.set()


Staging = tuple[TwoStaged, Classifier]


async def test_what_the_first_stage_is_sure_of_never_sees_the_thread(staged: Staging) -> None:
    strategy, classifier = staged

    found = await classifier.scored("sure")

    assert (found.strategy, found.intended, found.fallback) == ("glance", "two_staged", "")
    assert (found.scores, found.margin, found.generation) == ({"near": 1, "far": 0}, 1.0, "1")
    assert not strategy.batches


async def test_what_it_is_unsure_of_is_finished_beside_the_event_loop(staged: Staging) -> None:
    strategy, classifier = staged

    found = await classifier.scored("hm")

    assert (found.strategy, found.fallback, found.scores) == ("two_staged", "", {"near": 0, "far": 1})
    assert strategy.threads != {threading.get_ident()}


async def test_a_sure_prompt_of_the_same_turn_does_not_wait_for_an_unsure_one(staged: Staging) -> None:
    strategy, classifier = staged
    waits = asyncio.ensure_future(classifier.scored("wait"))

    assert (await classifier.scored("sure")).strategy == "glance"
    assert not waits.done()
    strategy.go.set()
    assert (await waits).strategy == "two_staged"


async def test_prompts_that_wait_share_the_next_batch(staged: Staging) -> None:
    strategy, classifier = staged
    first = asyncio.ensure_future(classifier.scored("wait"))
    await eventually(lambda: bool(strategy.batches))
    rest = [asyncio.ensure_future(classifier.scored(f"hm {number}")) for number in range(3)]
    await eventually(lambda: len(classifier._thinking._waiting) == 3)
    strategy.go.set()

    await asyncio.gather(first, *rest)

    assert strategy.batches == [["wait"], ["hm 0", "hm 1", "hm 2"]]


async def test_a_second_stage_that_fails_leaves_the_decision_to_the_first(staged: Staging) -> None:
    _, classifier = staged
    for text in ("explode", "rubbish"):
        found = await classifier.scored(text)

        assert (found.strategy, found.fallback) == ("glance", "strategy_failed")
        assert found.scores == pytest.approx({"near": 0.6, "far": 0.4})
    assert (await classifier.scored("hm")).fallback == ""


async def test_a_second_stage_that_is_stuck_holds_nobody_longer_than_the_budget_and_the_next_not_at_all() -> None:
    strategy = TwoStaged()
    async with aclosing(Classifier(strategy, budget_s=0.02)) as classifier:
        stuck = await classifier.scored("wait")
        later = await asyncio.gather(*(classifier.scored("hm") for _ in range(50)))

        assert {one.fallback for one in [stuck, *later]} == {"over_budget"}
        assert strategy.batches == [["wait"]]

        strategy.go.set()
        await eventually(lambda: is_finished(classifier))


async def is_finished(classifier: Classifier) -> bool:
    return not (await classifier.scored("hm")).fallback


async def test_a_strategy_swapped_in_is_not_held_by_a_stuck_one_and_work_under_way_ends_with_the_old(
    staged: Staging,
) -> None:
    old, classifier = staged
    under_way = asyncio.ensure_future(classifier.scored("wait"))
    queued = asyncio.ensure_future(classifier.scored("hm"))
    await eventually(lambda: bool(old.batches))
    new = TwoStaged()
    new.generation = "2"

    classifier.swap(new)

    assert (await classifier.scored("hm")).generation == "2"
    old.go.set()
    assert [(one.generation, one.fallback) for one in (await under_way, await queued)] == [("1", "")] * 2


async def test_one_who_left_is_not_thought_about(staged: Staging) -> None:
    strategy, classifier = staged
    first = asyncio.ensure_future(classifier.scored("wait"))
    await eventually(lambda: bool(strategy.batches))
    left = asyncio.ensure_future(classifier.scored("left"))
    stays = asyncio.ensure_future(classifier.scored("hm"))
    await eventually(lambda: len(classifier._thinking._waiting) == 2)
    left.cancel()
    strategy.go.set()

    await asyncio.gather(first, stays)

    assert strategy.batches == [["wait"], ["hm"]]


async def test_an_expensive_strategy_without_stages_runs_in_the_thread() -> None:
    async with aclosing(Classifier(Whole(), budget_s=30)) as classifier:
        found = await classifier.scored("hm")

    assert (found.strategy, found.scores) == ("encoder", {"near": 0, "far": 1})


class Whole:
    """Expensive, by its name, and of one piece."""

    name, experts, generation = "encoder", ("near", "far"), "1"

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.array([0, 1], np.float32), (len(prompts), 1))


async def test_decisions_margins_and_the_artefact_s_age_are_metrics() -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(MeterProvider(metric_readers=[reader]).get_meter("test"))
    strategy = TwoStaged()
    strategy.created = (datetime.now(UTC) - timedelta(hours=1)).isoformat()  # type: ignore[attr-defined]
    async with aclosing(Classifier(strategy, budget_s=30, telemetry=telemetry)) as classifier:
        for text in ("sure", "hm", "explode"):
            await classifier.scored(text)
    data = reader.get_metrics_data()
    assert data is not None
    found = {one.name: one.data.data_points for one in data.resource_metrics[0].scope_metrics[0].metrics}

    assert sorted(
        (point.attributes["expertmesh.decided_by"], point.attributes["expertmesh.fallback"], point.value)
        for point in found["expertmesh.route.classified"]
    ) == [("glance", "none", 1), ("glance", "strategy_failed", 1), ("two_staged", "none", 1)]
    assert sum(point.count for point in found["expertmesh.route.margin"]) == 3
    assert 3600 <= found["expertmesh.route.artefact.age"][0].value < 3700


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


TALK = Reading("and why?", "Prove that the sum converges.", "You are a lawyer.")


def test_a_last_turn_that_is_about_nothing_leaves_the_choice_to_what_came_before() -> None:
    last, earlier, system = TALK.weights()

    assert last < 0.1 * earlier
    assert earlier > 0 < system
    assert replace(TALK, last="Now draft a contract clause on liability").weights()[0] == 1.0


ROWS = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)


@pytest.mark.parametrize(
    ("weights", "row"),
    [((1, 0), [0.9, 0.1]), ((0, 0.1), [0.2, 0.8]), ((0, 0), [0.9, 0.1]), ((0.5, 0.5), [0.6, 0.4])],
)
def test_parts_are_joined_by_the_mean_of_their_logarithms(weights: tuple[float, float], row: list[float]) -> None:
    np.testing.assert_allclose(joined(ROWS, weights), row, atol=1e-6)


def test_one_part_keeps_its_row_to_the_bit() -> None:
    assert np.array_equal(joined(ROWS[:1], [0.001]), ROWS[0])


async def test_a_conversation_is_scored_as_a_whole() -> None:
    classifier = Classifier(ByWord({"prove": "math", "lawyer": "law", "contract": "law"}))

    follow_up = await classifier.scores(Reading("and why?", "prove this"))
    switch = await classifier.scores(Reading("draft a contract clause on liability", "prove this"))

    assert max(follow_up, key=follow_up.__getitem__) == "math"
    assert max(switch, key=switch.__getitem__) == "law"


async def test_of_a_conversation_whose_last_turn_is_unsure_the_unsure_parts_are_finished(staged: Staging) -> None:
    strategy, classifier = staged

    found = await classifier.scored(Reading("hm", "sure of that", "a system prompt"))

    assert found.strategy == "two_staged"
    assert sorted(text for batch in strategy.batches for text in batch) == ["a system prompt", "hm"]


def test_a_reading_has_the_last_turn_those_before_it_and_the_system_prompt() -> None:
    reading = reading_of(GenerateRequest(chat=CHAT))

    assert (reading.texts, bool(reading)) == (("bc", "a", "s"), True)
    assert not reading_of(GenerateRequest(token_ids=TokenIds(ids=[1])))


def test_of_a_very_long_text_head_and_tail_are_read() -> None:
    text = reading_of(GenerateRequest(prompt="a" * 50_000 + "b" * 50_000)).last

    assert len(text) < 20_000
    assert (text[0], text[-1]) == ("a", "b")
