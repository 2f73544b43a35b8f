"""Confidence that keeps its word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router_svc.fitting.judging import expected_calibration_error
from router_svc.strategies.calibration import log_loss, softmax, temperature


def drawn(true_temperature: float, prompts: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / true_temperature)."""
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=4, size=(prompts, 4))
    sums = softmax(logits / true_temperature).cumsum(axis=1)
    return logits, (draw.random((prompts, 1)) < sums).argmax(axis=1)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true_temperature: float) -> None:
    found = temperature(*drawn(true_temperature))

    assert found == pytest.approx(true_temperature, rel=0.1)


def test_a_temperature_lowers_log_loss_and_calibration_error() -> None:
    logits, labels = drawn(3.0)
    scaled = logits / temperature(logits, labels)

    def error(of: np.ndarray) -> float:
        return expected_calibration_error(softmax(of).max(axis=1).astype(np.float32), of.argmax(axis=1) == labels)

    assert log_loss(scaled, labels) < log_loss(logits, labels)
    assert error(scaled) < 0.03 < error(logits)


@pytest.mark.parametrize("shape", [(0, 4), (5, 1)])
def test_nothing_to_learn_from_leaves_confidence_as_it_is(shape: tuple[int, int]) -> None:
    assert temperature(np.zeros(shape), np.zeros(shape[0], np.int64)) == 1.0


@given(arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 7)), elements=st.floats(-1e6, 1e6)))
def test_probabilities_sum_to_1_and_do_not_depend_on_the_batch(logits: np.ndarray) -> None:
    together = softmax(logits)

    assert together.min() >= 0
    np.testing.assert_allclose(together.sum(axis=1), 1)
    assert all(np.array_equal(softmax(logits[at : at + 1])[0], row) for at, row in enumerate(together))


@given(st.integers(1, 9), st.integers(1, 6), st.data())
def test_any_labels_get_a_temperature_that_can_be_used(prompts: int, experts: int, data: st.DataObject) -> None:
    logits = data.draw(arrays(np.float64, (prompts, experts), elements=st.floats(-100, 100)))
    labels = np.array(data.draw(st.lists(st.integers(0, experts - 1), min_size=prompts, max_size=prompts)))

    assert 0.05 <= temperature(logits, labels) <= 20
