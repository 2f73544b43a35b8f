"""The figures by which a router is judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.fitting import judging


def test_confusion_counts_labels_in_rows_and_predictions_in_columns() -> None:
    counts = judging.confusion(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3)

    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_macro_recall_weighs_classes_alike_and_skips_those_that_do_not_occur() -> None:
    counts = np.array([[9, 1, 0], [2, 2, 0], [0, 0, 0]])

    assert judging.macro_recall(counts) == pytest.approx((0.9 + 0.5) / 2)


def test_accuracy_is_the_share_of_hits() -> None:
    assert judging.accuracy(np.array([1, 2, 0, 0]), np.array([1, 2, 1, 0])) == 0.75


def test_confidence_that_keeps_its_word_has_no_calibration_error() -> None:
    confidence = np.full(10, 0.7, dtype=np.float32)

    assert judging.expected_calibration_error(confidence, np.arange(10) < 7) == pytest.approx(0, abs=1e-6)


def test_calibration_error_weighs_each_bin_by_what_it_holds() -> None:
    confidence = np.array([1.0, 1.0, 1.0, 0.5], dtype=np.float32)
    correct = np.array([True, True, False, False])

    assert judging.expected_calibration_error(confidence, correct) == pytest.approx(0.75 * (1 / 3) + 0.25 * 0.5)


def test_reliability_holds_each_bin_s_confidence_against_its_accuracy() -> None:
    confidence = np.array([0.95, 0.85, 0.9, 0.1], dtype=np.float32)

    low, high = judging.reliability(confidence, np.array([True, False, True, False]), bins=5)

    assert (low.prompts, high.prompts) == (1, 3)
    assert (high.lower, high.upper) == (0.8, 1.0)
    assert high.confidence == pytest.approx(0.9)
    assert high.accuracy == pytest.approx(2 / 3)


def test_an_interval_narrows_with_prompts_and_stays_within_0_and_1() -> None:
    assert judging.interval(0.94, 2204) == pytest.approx((0.9293, 0.9492), abs=1e-4)
    assert judging.interval(1.0, 4)[1] == 1.0
    assert judging.interval(1.0, 4)[0] == pytest.approx(0.5101, abs=1e-4)
    assert judging.interval(0.0, 4)[0] == 0.0


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1))
def test_calibration_error_is_a_share(pairs: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(column) for column in zip(*pairs, strict=True))

    assert 0 <= judging.expected_calibration_error(confidence.astype(np.float32), correct) <= 1


def test_balance_is_1_when_even_and_the_number_of_clusters_when_one_holds_all() -> None:
    assert judging.balance(np.array([5, 5, 5, 5])) == {"shares": [0.25] * 4, "max_over_mean": 1.0}
    assert judging.balance(np.array([0, 8, 0, 0]))["max_over_mean"] == 4.0
    assert judging.balance(np.array([0, 0])) == {"shares": [0.0, 0.0], "max_over_mean": 0.0}
