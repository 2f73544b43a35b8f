"""The strategy `lexical`: what it reads, what it is fitted to, what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from router_svc.fitting import lexical as lexical_fit
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.lexical import Settings, fit, without_options
from router_svc.fitting.recipe import FitError
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.lexical import Lexical
from router_svc.strategies.lexical_features import Index, features_of, runs_of
from router_svc.strategies.opening import open_strategy
from support.corpora import AWKWARD, TOPICS, corpus, small_lexical

LEXICAL = Lexical(small_lexical())
LEXICAL_WORDS = {word: place for place, word in enumerate(small_lexical().words)}
ODD = [*AWKWARD, "aGVsbG8gd29ybGQ=" * 50, "def f(x):\n\treturn x**2", "1234567890", "\x00\x1f", "Ωmega матем 数学 😀 İ"]


def changed(**tensors: NDArray[np.float32]) -> Artefact:
    return replace(small_lexical(), tensors={**small_lexical().tensors, **tensors})


def test_words_signs_numbers_pairs_and_stems_are_features_each_once() -> None:
    assert [*features_of("Integrate 3.5x and x")] == [
        *["integrate", "#", ".", "x", "and"],
        *["integrate #", "# .", ". #", "# x", "x and", "and x"],
        "integ-",
    ]


@given(
    st.text()
    | st.lists(
        st.sampled_from(["the", "[", "]", "#", "7", "integrate", "integral", "of", "-", "_", "é", "数", "a\x1cb"])
    )
)
def test_the_index_finds_what_looking_every_feature_up_would_find(text: str | list[str]) -> None:
    known = features_of("Integrate [the] integral of 12 - 7 # é_数 patient, a python function; integ [ 3")
    vocabulary = {feature: place for place, feature in enumerate(known)}
    for given_ in (LEXICAL_WORDS, vocabulary):
        text = text if isinstance(text, str) else " ".join(text)
        wanted = {given_[feature] for feature in features_of(text) if feature in given_}

        found = Index(given_).places(text)

        assert set(found) == wanted
        assert len(found) == len(wanted)


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_is_cut_like_any_text(text: str) -> None:
    assert runs_of(text) == runs_of(f"{text} 数")[:-1]


def test_a_number_is_a_number_whichever_it_is() -> None:
    assert features_of("12 eggs") == features_of("7 eggs")


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Which?\nA. one\nB. two", "Which?"),
        ("Which?\nA) one\nB) two", "Which?"),
        ("A. Smith was", "A. Smith was"),
        ("x", "x"),
    ],
)
def test_a_question_is_also_learnt_without_its_options(text: str, question: str) -> None:
    assert without_options(text) == question


def test_prompts_of_a_topic_score_highest_for_its_expert() -> None:
    scores = LEXICAL.scores(list(TOPICS.values()))

    assert [LEXICAL.experts[place] for place in scores.argmax(axis=1)] == list(TOPICS)


@given(st.lists(st.text() | st.sampled_from([*ODD, *TOPICS.values()]), max_size=8))
def test_any_batch_gets_rows_that_sum_to_1_and_are_those_of_each_prompt_alone(prompts: list[str]) -> None:
    scores = LEXICAL.scores(prompts)

    assert scores.shape == (len(prompts), len(TOPICS))
    assert scores.dtype == np.float32
    assert scores.min(initial=0) >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert all(np.array_equal(row, LEXICAL.scores([prompt])[0]) for row, prompt in zip(scores, prompts, strict=True))


def test_the_layer_computes_what_the_fit_computed() -> None:
    lines = corpus()
    table = lexical_fit.Table.of(lines, tuple(TOPICS), Settings())
    layer = lexical_fit.Layer.fitted(table, Settings())
    logits = layer.logits(table) / small_lexical().settings["temperature"]

    found = LEXICAL.logits([line.prompt for line in lines])

    np.testing.assert_allclose(found, logits, rtol=2e-3, atol=1e-3)  # the temperature is written down rounded


def test_two_fits_give_the_same_tensors() -> None:
    again = fit(corpus(), Settings(), sources=[])

    assert again.words == small_lexical().words
    assert all(np.array_equal(again.tensors[name], tensor) for name, tensor in small_lexical().tensors.items())


def test_two_experts_are_enough() -> None:
    lines = [line for line in corpus() if line.domain in ("law", "math")]

    fitted = Lexical(fit(lines, Settings(), sources=[]))

    assert fitted.experts == ("law", "math")
    assert fitted.scores([TOPICS["law"], TOPICS["math"]]).argmax(axis=1).tolist() == [0, 1]


def test_prompts_without_a_domain_are_left_out_and_counted() -> None:
    lines = [*corpus(), LabelledPrompt("whatever", None, "")]

    assert fit(lines, Settings(), sources=[]).provenance["prompts_without_domain"] == 1


def test_half_a_surrogate_pair_in_a_corpus_does_not_reach_the_file(tmp_path: Path) -> None:
    lines = [*corpus(), LabelledPrompt("\ud800 \ud800", "math", "")]

    artefacts.save(tmp_path, fit(lines, Settings(), sources=[]))

    assert Lexical(artefacts.load(tmp_path)).scores(["\ud800"]).shape == (1, len(TOPICS))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([LabelledPrompt("solve it", "math", "")] * 9, "all prompts are of domain 'math'"),
        ([LabelledPrompt("solve it", None, "")] * 9, "no prompt has a domain to learn"),
        ([LabelledPrompt("\u200b", "math", ""), LabelledPrompt("\ud800", "law", "")], None),
    ],
)
def test_a_corpus_that_teaches_nothing_is_refused(lines: list[LabelledPrompt], problem: str | None) -> None:
    if problem is None:
        fit(lines, Settings(), sources=[])
        return
    with pytest.raises(FitError, match=problem):
        fit(lines, Settings(), sources=[])


def test_a_corpus_without_a_frequent_feature_is_refused() -> None:
    lines = [LabelledPrompt("solve it", "math", ""), LabelledPrompt("plead guilty", "law", "")]

    with pytest.raises(FitError, match="no feature of the corpus occurs in 2 prompts or more"):
        fit(lines, Settings(min_df=2), sources=[])


@pytest.mark.parametrize(
    ("artefact", "problem"),
    [
        (replace(small_lexical(), strategy="clusters"), "fitted for strategy 'clusters'"),
        (replace(small_lexical(), experts=()), "shapes"),
        (replace(small_lexical(), experts=("a", "b")), "shapes"),
        (replace(small_lexical(), words=("one",)), "shapes"),
        (replace(small_lexical(), tensors={}), "shapes"),
        (changed(bias=np.zeros(4, np.float32)), "shapes"),
        (changed(idf=np.zeros(len(small_lexical().words), np.float32)), "an idf is not above zero"),
    ],
)
def test_an_artefact_whose_parts_do_not_fit_is_refused_in_one_line(artefact: Artefact, problem: str) -> None:
    with pytest.raises(ArtefactError, match=problem) as refusal:
        Lexical(artefact)

    assert "\n" not in str(refusal.value)


def test_the_shipped_artefact_opens_and_tells_domains_apart() -> None:
    shipped = Path(__file__).parents[2] / "models/router/lexical"

    opened = open_strategy("lexical", artefact=shipped, experts=[], pinned=None, seed=0)

    best = opened.scores(["Write a python function that reverses a list.", "The patient has cancer of the blood."])
    assert [opened.experts[place] for place in best.argmax(axis=1)] == ["coding", "health"]


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    weights = small_lexical().tensors["weights"].copy()
    weights[0, 0] = np.nan
    artefacts.save(tmp_path, changed(weights=weights))

    with pytest.raises(ArtefactError, match="a value in weights that is not finite"):
        open_strategy("lexical", artefact=tmp_path, experts=[], pinned=None, seed=0)
