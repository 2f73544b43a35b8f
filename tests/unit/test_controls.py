"""Strategies that do not read the prompt."""

from collections.abc import Callable

import numpy as np
import pytest

from router_svc.strategies.controls import Pinned, Random, RoundRobin
from router_svc.strategies.strategy import Strategy

EXPERTS = ("general", "math", "coding")
CONTROLS: list[Callable[[], Strategy]] = [
    lambda: Pinned(EXPERTS, "math"),
    lambda: Random(EXPERTS, seed=3),
    lambda: RoundRobin(EXPERTS),
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("prompts", [[], [""], ["a"] * 7])
def test_each_row_names_one_expert(control: Callable[[], Strategy], prompts: list[str]) -> None:
    scores = control().scores(prompts)

    assert scores.shape == (len(prompts), 3)
    assert scores.dtype == np.float32
    assert np.array_equal(np.sort(scores, axis=1), np.tile([0, 0, 1], (len(prompts), 1)))


def test_pinned_always_names_its_expert() -> None:
    assert Pinned(EXPERTS, "coding").scores(["1 + 1", "hello"]).argmax(axis=1).tolist() == [2, 2]


def test_pinned_refuses_an_expert_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="cannot pin to 'law'; there are general, math, coding"):
        Pinned(EXPERTS, "law")


def test_random_draws_the_same_sequence_from_the_same_seed_whatever_the_batches() -> None:
    one, other = Random(EXPERTS, seed=5), Random(EXPERTS, seed=5)

    whole = one.scores(["x"] * 60)

    assert np.array_equal(whole, np.vstack([other.scores(["x"] * 20) for _ in range(3)]))
    assert set(whole.argmax(axis=1)) == {0, 1, 2}
    assert not np.array_equal(whole, Random(EXPERTS, seed=6).scores(["x"] * 60))


def test_round_robin_goes_on_across_batches() -> None:
    control = RoundRobin(EXPERTS)

    assert control.scores(["x"] * 2).argmax(axis=1).tolist() == [0, 1]
    assert control.scores(["x"] * 3).argmax(axis=1).tolist() == [2, 0, 1]
