"""`router_svc.fit`: from a corpus to an artefact that can serve, or a line that says why not."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from router_svc.fit import app, nearest_prompts
from router_svc.fitting.balanced import assign_evenly, balanced_centres
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.recipe import Settings, fit, words_of
from router_svc.strategies.artefact import ArtefactError, load
from router_svc.strategies.clusters import Clusters
from router_svc.strategies.lexical import Lexical
from support.corpora import TOPICS, corpus, small_artefact, write_corpus

FAST = ["--clusters", "6", "--components", "10", "--starts", "2"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_stop_words_and_tokens_that_start_with_a_digit_are_dropped() -> None:
    assert words_of("The 3rd Proof of x2, in 42 steps: é a b2b") == ["proof", "x2", "steps", "b2b"]


@pytest.mark.parametrize(("points", "clusters"), [(12, 4), (13, 4), (15, 4), (5, 5), (7, 1)])
def test_the_assignment_is_balanced_and_no_costlier_than_a_shuffle(points: int, clusters: int) -> None:
    draw = np.random.default_rng(0)
    costs = draw.random((points, clusters))

    assigned = assign_evenly(costs)

    sizes = np.bincount(assigned, minlength=clusters)
    assert sizes.min() == points // clusters
    assert sizes.max() <= points // clusters + 1
    shuffles = (costs[np.arange(points), draw.permutation(assigned)].sum() for _ in range(200))
    assert costs[np.arange(points), assigned].sum() <= min(shuffles)


def test_balanced_centres_find_equal_groups() -> None:
    groups = np.repeat(np.eye(3), 20, axis=0)
    points = groups + np.random.default_rng(1).normal(scale=0.05, size=groups.shape)

    centres = balanced_centres(points, 3, seed=2)

    np.testing.assert_allclose(centres[np.argsort(-centres @ np.arange(3, 0, -1))], np.eye(3), atol=0.05)


def test_two_fits_give_the_same_tensors_and_another_seed_other_ones() -> None:
    first, second = (
        small_artefact(),
        fit(corpus(), Settings(clusters=6, components=10, starts=3), by_hand={}, sources=[]),
    )
    other = fit(corpus(), Settings(clusters=6, components=10, starts=3, seed=1), by_hand={}, sources=[])

    assert first.words == second.words
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert not np.array_equal(first.tensors["centres"], other.tensors["centres"])


def test_a_labelled_corpus_becomes_an_artefact_that_serves_its_domains(tmp_path: Path) -> None:
    lines = corpus()
    files = [write_corpus(tmp_path / "a.jsonl", lines[:60]), write_corpus(tmp_path / "b.jsonl", lines[60:])]

    result = run("--corpus", files[0], "--corpus", files[1], "--out", tmp_path / "out", *FAST)

    assert result.exit_code == 0, result.output
    artefact = load(tmp_path / "out")
    assert Clusters(artefact).experts == tuple(TOPICS)
    assert [source["file"] for source in artefact.provenance["corpus"]] == ["a.jsonl", "b.jsonl"]
    assert artefact.provenance["labels"] == dict.fromkeys(TOPICS, 24)
    assert artefact.mapping["how"] == "labels"
    assert str(tmp_path) not in json.dumps([artefact.provenance, artefact.settings, artefact.mapping])
    assert artefact.id in result.output


def test_a_small_corpus_gets_fewer_components_and_is_told(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", corpus(100))

    result = run("--corpus", path, "--out", tmp_path / "out", "--starts", "1")

    assert result.exit_code == 0, result.output
    components = load(tmp_path / "out").settings["components"]
    assert components < 100
    assert f"{components} components instead of 100" in result.output


def test_an_unlabelled_corpus_becomes_clusters_to_be_named(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", corpus(), labelled=False)

    result = run("--corpus", path, "--out", tmp_path / "out", *FAST)

    assert result.exit_code == 2
    assert "run this again with --map" in result.stderr
    described = load(tmp_path / "out").mapping["clusters"]
    assert all(set(cluster["words"]) & set(" ".join(TOPICS.values()).split()) for cluster in described)
    with pytest.raises(ArtefactError, match="no experts yet"):
        Clusters(load(tmp_path / "out"))

    named = run("--corpus", path, "--out", tmp_path / "out", *FAST, "--map", "0=coding", "--map", "1=math")

    assert named.exit_code == 0, named.output
    shares = load(tmp_path / "out").tensors["cluster_experts"]
    assert shares.tolist() == [[1, 0], [0, 1]] + [[0.5, 0.5]] * 4
    assert [cluster["words"] for cluster in load(tmp_path / "out").mapping["clusters"]] == [
        cluster["words"] for cluster in described
    ]


def test_the_prompts_nearest_to_a_cluster_s_centre_are_shown_but_not_kept(tmp_path: Path) -> None:
    lines = [*corpus(), LabelledPrompt("🦙", "general", "")]
    path = write_corpus(tmp_path / "a.jsonl", lines)

    result = run("--corpus", path, "--out", tmp_path / "out", *FAST)

    artefact = load(tmp_path / "out")
    nearest = nearest_prompts(artefact, lines, 2)
    assert sum(len(texts) for texts in nearest) > 6
    for cluster, texts in enumerate(nearest):
        assert set(Clusters(artefact).nearest(texts).tolist()) <= {cluster}
    assert nearest[0][0].split()[0] in result.stdout
    assert nearest[0][0] not in (tmp_path / "out/manifest.json").read_text()


def test_another_strategy_than_can_be_fitted_is_named(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", corpus(30))

    result = run("--corpus", path, "--strategy", "pinned")

    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "cannot fit strategy 'pinned'; there are clusters, lexical, cascade" in result.stderr


def test_a_labelled_corpus_becomes_a_lexical_artefact(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", corpus())

    result = run("--strategy", "lexical", "--corpus", path, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert Lexical(load(tmp_path / "out")).experts == tuple(TOPICS)


def test_examples_of_one_class_only_are_named_for_lexical(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", [LabelledPrompt("solve it", "math", "")] * 20)

    result = run("--strategy", "lexical", "--corpus", path, "--out", tmp_path / "out")

    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "all prompts are of domain 'math'" in result.stderr


def test_a_hand_goes_before_labels() -> None:
    fitted = fit(corpus(), Settings(clusters=6, components=10, starts=3), by_hand={2: "poetry"}, sources=[])

    assert fitted.experts == (*sorted([*TOPICS, "poetry"]),)
    assert fitted.tensors["cluster_experts"][2].tolist() == [float(name == "poetry") for name in fitted.experts]
    assert fitted.mapping["how"] == "labels and by hand"
    np.testing.assert_allclose(fitted.tensors["prior"].sum(), 1, atol=1e-6)


def test_equal_prompts_and_prompts_without_words_do_not_disturb_a_fit() -> None:
    lines = [LabelledPrompt("solve the equation", "math", "")] * 20 + [LabelledPrompt("12 3 🦙", "general", "")] * 3

    fitted = fit(lines, Settings(clusters=2, components=10, starts=1), by_hand={}, sources=[])

    assert fitted.provenance["prompts_without_known_words"] == 3
    assert Clusters(fitted).scores(["an equation", "42"]).shape == (2, len(fitted.experts))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a.jsonl: holds no prompts"),
        (b'{"prompt": "ok"}\n{"prompt": \n', "a.jsonl, line 2: is not valid JSON"),
        (b"[" * 100_000, "a.jsonl, line 1: is not valid JSON"),
        (b'["prompt"]', "a.jsonl, line 1: is not a JSON object"),
        (b'\n{"domain": "math"}', "a.jsonl, line 2: has no text under 'prompt'"),
        (b'{"prompt": 3}', "a.jsonl, line 1: has no text under 'prompt'"),
        (b'{"prompt": "  "}', "a.jsonl, line 1: has no text under 'prompt'"),
        (b'{"prompt": "x", "domain": 4}', "a.jsonl, line 1: 'domain' is not a text"),
        (b"\xff\xfe", "a.jsonl: is not UTF-8 text"),
        (b'{"prompt": "the 12 of", "domain": "math"}\n' * 20, "no word of the corpus occurs in 1 prompts"),
        (b'{"prompt": "solve it", "domain": "math"}\n' * 5, "5 prompts with words are too few for 16 clusters"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)

    result = run("--corpus", tmp_path / "a.jsonl", "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", ["coding", "x=coding", "0=", "-1=coding", "6=coding"])
def test_a_mapping_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, pair: str) -> None:
    path = write_corpus(tmp_path / "a.jsonl", corpus(30))

    result = run("--corpus", path, "--out", tmp_path / "out", *FAST, "--map", pair)

    assert result.exit_code == 2
    assert "--map" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_corpus_and_a_folder_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    assert "nowhere.jsonl: cannot be read: No such file" in run("--corpus", tmp_path / "nowhere.jsonl").stderr

    path = write_corpus(tmp_path / "a.jsonl", corpus(30))
    result = run("--corpus", path, "--out", path / "under-a-file", *FAST)

    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
