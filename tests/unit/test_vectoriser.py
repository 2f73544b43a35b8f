"""The serve-time vectoriser: the same figures as scikit-learn's pipeline, for any text."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from router_svc.fitting.recipe import words_of
from router_svc.strategies.vectoriser import WORDS_AT_ONCE, Vectoriser

TOPICS = {
    "math": "sum integral prove theorem equation triangle number solve derivative matrix",
    "coding": "python function list return loop compile string bug index code",
    "health": "patient doctor blood disease symptoms treatment heart vaccine dose pain",
}
AWKWARD = [
    "The 3rd INTEGRAL of x2 is 42 and the function's bug, isn't it?",
    "Ünïcode straße ÉQUATION \u0130stanbul 数学 سلام triangle",
    "triangle " * (WORDS_AT_ONCE + 7) + "python",
]


def corpus(prompts: int = 240, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    filler = [
        "the",
        "of",
        "and",
        "12",
        "2nd",
        "please",
        "tell",
        "me",
        "about",
        "this",
        "and",
        "that",
        "with",
        "café",
        "señor",
    ]
    topics = [words.split() for words in TOPICS.values()]
    return [" ".join(draw.choices(draw.choice(topics), k=9) + draw.choices(filler, k=6)) for _ in range(prompts)]


def pipeline(components: int) -> Pipeline:
    return make_pipeline(
        TfidfVectorizer(analyzer=words_of), TruncatedSVD(components, random_state=0), Normalizer()
    ).fit(corpus())


def serving(fitted: Pipeline) -> Vectoriser:
    tfidf, svd = fitted[0], fitted[1]
    return Vectoriser(tfidf.get_feature_names_out(), (svd.components_ * tfidf.idf_).T.astype(np.float32))


@pytest.mark.parametrize("components", [1, 5, 20])
def test_coordinates_equal_scikit_learn_s_to_1e_5(components: int) -> None:
    fitted = pipeline(components)
    prompts = [*corpus(60, seed=1), *AWKWARD]

    np.testing.assert_allclose(serving(fitted).transform(prompts), fitted.transform(prompts), rtol=0, atol=1e-5)


def test_coordinates_equal_scikit_learn_s_at_the_shipped_artefact_s_settings() -> None:
    zipf = 1 / np.arange(1, 2001)
    ranks = np.random.default_rng(0).choice(2000, (600, 60), p=zipf / zipf.sum())
    texts = [" ".join(f"word{rank}" for rank in row) for row in ranks]
    tfidf = TfidfVectorizer(analyzer=words_of, min_df=3)
    fitted = make_pipeline(tfidf, TruncatedSVD(100, random_state=0), Normalizer()).fit(texts)

    np.testing.assert_allclose(serving(fitted).transform(texts), fitted.transform(texts), rtol=0, atol=1e-5)


SERVING = serving(pipeline(12))


def rows(prompts: list[str]) -> NDArray[np.float32]:
    return SERVING.transform(prompts)


@given(st.lists(st.text() | st.sampled_from([*TOPICS.values(), "python\0triangle", "🦙", "\ud800", "123 456", ""])))
def test_any_text_has_a_row_of_unit_length_or_of_zeros(prompts: list[str]) -> None:
    lengths = np.linalg.norm(rows(prompts), axis=1)

    assert np.all(np.isclose(lengths, 1, atol=1e-6) | (lengths == 0))


@given(st.lists(st.sampled_from([*corpus(20), *AWKWARD, "", "9"]), min_size=1, max_size=9))
def test_a_prompt_has_the_same_bits_in_any_batch(prompts: list[str]) -> None:
    assert np.array_equal(rows(prompts), np.vstack([rows([prompt]) for prompt in prompts]))


@pytest.mark.parametrize("prompt", ["", "a", "7", "2024 3d 4th", "🦙🦙", "the and of", "\0", "x" * 100_000])
def test_a_prompt_without_a_known_word_is_all_zeros(prompt: str) -> None:
    assert not rows([prompt]).any()


def test_an_empty_batch_has_no_rows() -> None:
    assert rows([]).shape == (0, 12)
