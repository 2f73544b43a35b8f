"""Whether traffic is like what an artefact was fitted on."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.classifying.classification import FAILED, Scored
from router_svc.classifying.drift import BINS, LEAST, LEFT, Profile, compared, fitted, profile_of, stability
from router_svc.classifying.drift_sketch import WINDOW, Drifting, Sketch
from router_svc.strategies.lexical import Lexical
from support.corpora import corpus, small_artefact, small_lexical

CORPUS = Profile({"health": 0.12, "math": 0.5, "law": 0.38}, [0.02, 0.06, *[0.115] * 8], 5000)


def scored(expert: str = "math", margin: float = 0.9, fallback: str = "") -> Scored:
    return Scored({expert: 0.8, "other": 0.1}, "lexical", "lexical", fallback, "abc", margin)


def traffic(shares: dict[str, float], low: float = 0.08, prompts: float = 1000) -> Profile:
    """Prompts of which a share of `low` has a margin below 0.2."""
    return Profile(shares, [low / 2, low / 2, *[(1 - low) / 8] * 8], prompts)


def test_traffic_like_the_corpus_is_like_it() -> None:
    said = compared(traffic({"health": 0.13, "math": 0.49, "law": 0.38}), CORPUS)
    assert said.verdict == "like the fitting data"
    assert said.index is not None
    assert said.index < 0.05


def test_traffic_that_has_left_is_told_by_what_differs_most() -> None:
    said = compared(traffic({"health": 0.45, "math": 0.2, "law": 0.35}, low=0.3), CORPUS)
    assert said.verdict == (
        "has left what the artefact was fitted on: "
        "health 45 % instead of 12 %, math 20 % instead of 50 %, margins below 0.2 30 % instead of 8 %"
    )
    assert said.index is not None
    assert said.index > LEFT


def test_an_expert_that_the_corpus_did_not_have_is_named() -> None:
    assert "poetry 30 % instead of 0 %" in compared(traffic({"poetry": 0.3, "math": 0.7}), CORPUS).verdict


def test_unsure_traffic_of_the_same_experts_has_left_too() -> None:
    assert "margins below 0.2 60 % instead of 8 %" in compared(traffic(dict(CORPUS.experts), low=0.6), CORPUS).verdict


def test_a_little_is_not_much() -> None:
    said = compared(traffic({"health": 0.24, "math": 0.43, "law": 0.33}), CORPUS)
    assert said.verdict.startswith("has moved from the fitting data: health 24 % instead of 12 %")


def test_what_is_not_known_is_said_to_be() -> None:
    assert compared(CORPUS, None).index is None
    assert "does not say" in compared(CORPUS, None).verdict
    few = compared(traffic(dict(CORPUS.experts), prompts=LEAST - 1), CORPUS)
    assert (few.verdict, few.index) == ("not known yet, from 199 prompts", None)


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(sum).map(lambda some: [s / sum(some) for s in some])
amounts = st.floats(1, 1e6)


@given(shares, shares, amounts, amounts)
def test_the_index_is_symmetric_never_negative_and_0_for_equals(
    one: list[float], other: list[float], prompts: float, more: float
) -> None:
    index = stability(one, other, prompts, more)
    assert math.isfinite(index)
    assert index >= 0
    assert index == pytest.approx(stability(other, one, more, prompts))
    assert stability(one, one, prompts, prompts) == 0


@pytest.mark.parametrize("fit", [small_artefact, small_lexical])
def test_what_is_fitted_says_how_its_corpus_looks(fit: Any) -> None:
    said = profile_of(fit().provenance)
    assert said is not None
    assert set(said.experts) == set(fit().experts)
    assert math.fsum(said.experts.values()) == pytest.approx(1)
    assert math.fsum(said.margins) == pytest.approx(1)
    assert len(said.margins) == BINS


def test_labels_stand_in_for_scores_that_an_artefact_does_not_tell_of() -> None:
    said = profile_of({"labels": {"math": 30, "law": 10}, "prompts": 40})
    assert said == Profile({"math": 0.75, "law": 0.25}, [], 40)
    assert compared(traffic({"math": 0.75, "law": 0.25}), said).verdict == "like the fitting data"
    assert "margins" not in compared(traffic({"math": 0.1, "law": 0.9}), said).verdict


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
fields = st.fixed_dictionaries({}, optional={"experts": json, "margins": json, "prompts": json, "labels": json})


@given(st.dictionaries(st.sampled_from(["traffic", "labels", "prompts"]), json | fields))
def test_a_provenance_of_any_kind_is_read_or_is_not_known(provenance: dict[str, Any]) -> None:
    said = profile_of(provenance)
    if said is not None:
        assert math.fsum(said.experts.values()) == pytest.approx(1)
        compared(CORPUS, said)


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, 10**400, True, "7", None])
def test_figures_that_are_none_are_not_known(amount: Any) -> None:
    assert profile_of({"labels": {"math": amount}, "prompts": 40}) is None


def test_a_sketch_holds_shares_and_margins_and_no_text() -> None:
    drifting = Drifting(None)
    for expert, margin in [("math", 0.95), ("math", 1.0), ("law", 0.0), ("math", 0.1)]:
        drifting.note(scored(expert, margin))
    found = drifting._sketch.profile()
    assert found.experts == pytest.approx({"math": 0.75, "law": 0.25}, rel=1e-2)
    assert found.margins == pytest.approx([0.25, 0.25, *[0] * 7, 0.5], rel=1e-2)
    assert found.prompts == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize("other", [scored(fallback=FAILED), scored(margin=math.nan), Scored({}, "", "", "", "", 0.0)])
def test_what_another_decided_or_nobody_is_not_sketched(other: Scored) -> None:
    drifting = Drifting(CORPUS)
    drifting.note(other)
    assert drifting.compared().prompts == 0


def test_old_traffic_fades() -> None:
    sketch = Sketch()
    for expert in ("law", "math"):
        for _ in range(int(3 * WINDOW)):
            sketch.note({expert: 1.0}, 0.5)
    found = sketch.profile()
    assert found.experts["math"] == pytest.approx(1 - math.exp(-3), abs=0.01)
    assert found.prompts <= WINDOW + 2


def test_a_sketch_lasts() -> None:
    sketch = Sketch()
    sketch._weight = 1e9
    sketch._experts, sketch._margins = {"law": 1e12}, [1e12, *[0.0] * (BINS - 1)]
    for _ in range(10):
        sketch.note({"math": 1.0}, 0.5)
    assert sketch.profile().experts == pytest.approx({"law": 0.99, "math": 0.01}, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=50))
def test_shares_add_up_whatever_comes(prompts: list[tuple[str, float]]) -> None:
    sketch = Sketch()
    for expert, margin in prompts:
        sketch.note({expert: 1.0}, margin)
    found = sketch.profile()
    assert math.fsum(found.experts.values()) == pytest.approx(1)
    assert math.fsum(found.margins) == pytest.approx(1)
    assert found.prompts == pytest.approx(len(prompts), rel=0.05)


def test_the_corpus_itself_has_not_left_what_was_fitted_on_it() -> None:
    lexical = Lexical(small_lexical())
    drifting = Drifting(
        profile_of({"traffic": fitted(lexical.scores([one.prompt for one in corpus()]), lexical.experts)})
    )
    for line in corpus(600, seed=1):
        row = lexical.scores([line.prompt])[0]
        first, second = np.sort(row)[::-1][:2]
        names = dict(zip(lexical.experts, row.tolist(), strict=True))
        drifting.note(Scored(names, "lexical", "lexical", "", "abc", float(first - second)))
    assert drifting.compared().verdict == "like the fitting data"

    drifting.begin_again(CORPUS)
    assert drifting.compared().prompts == 0
