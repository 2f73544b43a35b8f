"""The strategy `few_shot`: a few examples for each expert."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from router_svc.strategies.few_shot import FewShot
from support.corpora import AWKWARD, TOPICS

WORDS = sorted(set(" ".join(TOPICS.values()).split()))


class BagOfWords:
    """Stands for an encoder: one dimension for each word of the topics."""

    generation = "bag-1"

    def vectors(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.array([[prompt.split().count(word) for word in WORDS] for prompt in prompts], dtype=np.float32)
        counts = counts.reshape(len(prompts), len(WORDS))
        lengths = np.sqrt(np.einsum("pd,pd->p", counts, counts))[:, None]
        return np.asarray(counts / np.where(lengths > 0, lengths, 1), dtype=np.float32)


EXAMPLES = {domain: [" ".join(words.split()[:4]), " ".join(words.split()[4:8])] for domain, words in TOPICS.items()}
FEW = FewShot(BagOfWords(), EXAMPLES)


def test_prompts_go_where_their_like_are() -> None:
    scores = FEW.scores([*TOPICS.values()])

    assert [FEW.experts[place] for place in scores.argmax(axis=1)] == list(TOPICS)


def test_a_prompt_that_is_like_nothing_is_unsure() -> None:
    assert FEW.scores(["🦙"]).max() < 0.4


def test_examples_that_are_all_the_same_tell_nothing_apart() -> None:
    same = FewShot(BagOfWords(), {"law": ["court"], "math": ["court"]})

    np.testing.assert_allclose(same.scores(["court", "sum"]), 0.5, atol=1e-6)


@given(st.lists(st.text() | st.sampled_from([*AWKWARD, *TOPICS.values()]), max_size=5))
def test_any_batch_gets_rows_that_sum_to_1_and_are_those_of_each_prompt_alone(prompts: list[str]) -> None:
    scores = FEW.scores(prompts)

    assert scores.shape == (len(prompts), len(TOPICS))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert all(np.array_equal(row, FEW.scores([prompt])[0]) for row, prompt in zip(scores, prompts, strict=True))


def test_other_examples_are_another_generation() -> None:
    other = FewShot(BagOfWords(), EXAMPLES | {"law": ["court"]})

    assert other.generation != FEW.generation
    assert FewShot(BagOfWords(), EXAMPLES).generation == FEW.generation


@pytest.mark.parametrize("examples", [{}, {"law": ["court"]}, {"law": ["court"], "math": []}])
def test_examples_of_fewer_than_two_experts_are_refused(examples: Mapping[str, Sequence[str]]) -> None:
    with pytest.raises(ValueError, match="a few prompts for each of two experts or more"):
        FewShot(BagOfWords(), examples)
