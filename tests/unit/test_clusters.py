"""The strategy `clusters`: nearest centre, and what its cluster's labels say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.clusters import NO_CLUSTER, Clusters
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import fold
from support.corpora import AWKWARD, TOPICS, corpus, small_artefact

CLUSTERS = Clusters(small_artefact())


def changed(**tensors: NDArray[np.float32]) -> Artefact:
    artefact = small_artefact()
    return replace(artefact, tensors={**artefact.tensors, **tensors})


def test_prompts_of_a_topic_score_highest_for_its_expert() -> None:
    scores = CLUSTERS.scores(list(TOPICS.values()))

    assert [CLUSTERS.experts[place] for place in scores.argmax(axis=1)] == list(TOPICS)


def test_the_nearest_centre_is_nearest_by_euclidean_distance() -> None:
    prompts = [line.prompt for line in corpus(40, seed=2)]
    points = CLUSTERS._vectoriser.transform(prompts)
    distances = np.linalg.norm(points[:, None] - small_artefact().tensors["centres"], axis=2)

    assert np.array_equal(CLUSTERS.nearest(prompts), distances.argmin(axis=1))


def test_a_prompt_without_a_known_word_gets_the_prior() -> None:
    assert CLUSTERS.nearest(["42 🦙"]).tolist() == [NO_CLUSTER]
    np.testing.assert_allclose(CLUSTERS.scores(["42 🦙"])[0], small_artefact().tensors["prior"], atol=1e-6)


@given(st.lists(st.text() | st.sampled_from([*AWKWARD, *TOPICS.values()]), max_size=8))
def test_any_batch_gets_rows_that_sum_to_1_and_are_those_of_each_prompt_alone(prompts: list[str]) -> None:
    scores = CLUSTERS.scores(prompts)

    assert scores.shape == (len(prompts), len(TOPICS))
    assert scores.dtype == np.float32
    assert scores.min(initial=0) >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert all(np.array_equal(row, CLUSTERS.scores([prompt])[0]) for row, prompt in zip(scores, prompts, strict=True))


@pytest.mark.parametrize(
    ("artefact", "problem"),
    [
        (replace(small_artefact(), strategy="lexical"), "fitted for strategy 'lexical'"),
        (replace(small_artefact(), experts=()), "no experts yet; fit again with --map"),
        (replace(small_artefact(), experts=("a", "b")), "shapes"),
        (replace(small_artefact(), words=("one",)), "shapes"),
        (replace(small_artefact(), tensors={}), "shapes"),
        (changed(centres=np.zeros((), np.float32)), "shapes"),
        (changed(centres=np.zeros((6, 9), np.float32)), "shapes"),
        (changed(prior=np.full(5, 0.3, np.float32)), "prior is not a probability distribution"),
        (
            changed(cluster_experts=np.tile(np.array([2, -1, 0, 0, 0], np.float32), (6, 1))),
            "cluster_experts is not a probability",
        ),
    ],
)
def test_an_artefact_whose_parts_do_not_fit_is_refused_in_one_line(artefact: Artefact, problem: str) -> None:
    with pytest.raises(ArtefactError, match=problem) as refusal:
        Clusters(artefact)

    assert "\n" not in str(refusal.value)


def test_the_strategy_opens_by_name_and_its_generation_is_the_artefact_s_id(tmp_path: Path) -> None:
    name = artefacts.save(tmp_path, small_artefact())

    opened = open_strategy("clusters", artefact=tmp_path, experts=["general"], pinned=None, seed=0)

    assert (opened.name, opened.generation, opened.experts) == ("clusters", name, tuple(TOPICS))


def test_the_shipped_artefact_opens_and_names_the_experts_of_the_fleet() -> None:
    shipped = Path(__file__).parents[2] / "models/router/clusters"

    opened = open_strategy("clusters", artefact=shipped, experts=[], pinned=None, seed=0)

    assert {"general", "math", "coding", "health"} <= set(opened.experts)
    best = opened.scores(["Write a python function that reverses a list.", "The patient has cancer of the blood."])
    assert [opened.experts[place] for place in best.argmax(axis=1)] == ["coding", "health"]


@pytest.mark.parametrize(
    ("name", "experts", "problem"),
    [
        ("clusters", ["a"], "needs an artefact"),
        ("oracle", ["a"], "unknown strategy 'oracle'; there are cascade, lexical, encoder, few_shot, clusters, pinned"),
        ("random", [], "needs at least one expert"),
        ("pinned", ["a", "b"], "needs the name of an expert: a, b"),
    ],
)
def test_a_strategy_that_lacks_something_says_what(name: str, experts: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_strategy(name, artefact=None, experts=experts, pinned=None, seed=0)


def test_what_no_served_expert_answers_counts_for_the_generalist() -> None:
    scores = np.array([[0.5, 0.2, 0.3], [0, 1, 0]], dtype=np.float32)

    folded = fold(scores, ["law", "general", "math"], serve=["general", "health", "math"], generalist="general")

    np.testing.assert_allclose(folded, np.array([[0.7, 0, 0.3], [1, 0, 0]], np.float32), atol=1e-7)


@pytest.mark.parametrize(("serve", "problem"), [(["math"], "not among"), (["general", "general"], "named twice")])
def test_folding_refuses_a_fleet_without_its_generalist_or_with_a_double(serve: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fold(np.ones((1, 1), dtype=np.float32), ["law"], serve=serve, generalist="general")
