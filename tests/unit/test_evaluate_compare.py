"""Strategies side by side, and the plane in which prompts are drawn."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from router_svc.evaluate import app
from router_svc.evaluation.compare import KEYS, plan
from router_svc.evaluation.curve import learning_curve
from router_svc.evaluation.plane import flatten
from router_svc.strategies.artefact import save
from router_svc.strategies.strategy import STRATEGIES
from support.corpora import corpus, small_artefact, write_corpus


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    save(tmp_path / "artefacts/clusters", small_artefact())
    return tmp_path / "artefacts"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "prompts.jsonl", corpus(50, seed=4))


def test_what_is_named_is_tried_once_and_the_first_is_reported_in_full() -> None:
    assert plan(None, [], cost_of_all=False) == ("cascade", ["cascade"], set())
    assert plan("lexical", [], cost_of_all=False) == ("lexical", ["lexical"], set())
    assert plan(None, ["random, lexical", "random"], cost_of_all=True) == ("random", ["random", "lexical"], set())
    assert plan("pinned", ["lexical"], cost_of_all=False) == ("pinned", ["pinned", "lexical"], set())


def test_all_stands_for_every_strategy_and_those_that_nobody_named_may_be_left_out() -> None:
    first, names, unasked = plan("lexical", ["all", "random"], cost_of_all=False)

    assert (first, names) == ("lexical", list(STRATEGIES))
    assert unasked == set(STRATEGIES) - {"lexical", "random"}
    assert plan("lexical", [], cost_of_all=True)[1] == list(STRATEGIES)


def test_the_comparison_stands_in_json_and_in_the_terminal(artefacts: Path, prompts: Path) -> None:
    arguments: list[str | Path] = [
        "--prompts",
        prompts,
        "--artefacts",
        artefacts,
        "--compare",
        "clusters",
        "--compare",
        "random,pinned",
    ]

    said = json.loads(run(*arguments, "--json").stdout)

    assert [row["strategy"] for row in said["compared"]] == ["clusters", "random", "pinned"]
    assert all(set(row) == set(KEYS) for row in said["compared"])
    assert {key: said[key] for key in KEYS} == said["compared"][0]

    shown = run(*arguments)

    assert shown.exit_code == 0, shown.output
    for expected in ("clusters", "random", "pinned", "Experts served", "Domains", "macro recall", "p99 µs"):
        assert expected in shown.stdout


def test_all_leaves_out_what_cannot_be_tried_and_says_so(artefacts: Path, prompts: Path) -> None:
    result = run("--prompts", prompts, "--artefacts", artefacts, "--strategy", "clusters", "--compare", "all", "--json")

    assert result.exit_code == 0, result.output
    compared = [row["strategy"] for row in json.loads(result.stdout)["compared"]]
    assert compared == ["clusters", "pinned", "random", "round_robin"]
    assert result.stderr.count("left out") == 4


def test_bad_input_is_named_in_one_line(artefacts: Path, prompts: Path, tmp_path: Path) -> None:
    unlabelled = write_corpus(tmp_path / "unlabelled.jsonl", corpus(4, seed=8), labelled=False)
    cases: dict[str, list[str | Path]] = {
        "unknown strategy 'oracle'": ["--compare", "clusters,oracle"],
        "--compare names no strategy": ["--compare", " , "],
        "lexical/manifest.json: cannot be read": ["--compare", "clusters,lexical"],
        "nowhere.jsonl: cannot be read": ["--strategy", "clusters", "--learning-curve", tmp_path / "nowhere.jsonl"],
        "no prompt has a domain": ["--strategy", "clusters", "--learning-curve", unlabelled],
    }
    for problem, arguments in cases.items():
        result = run("--prompts", prompts, "--artefacts", artefacts, *arguments)

        assert result.exit_code == 2, problem
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1
        assert not result.stdout


def test_who_does_not_draw_nor_fit_loads_nothing_heavy() -> None:
    heavy = {"matplotlib", "sklearn", "scipy", "onnxruntime"}
    code = f"import sys, router_svc.evaluate; print(sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # ours

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("missing", "option"), [("matplotlib", "--plots"), ("sklearn", "--learning-curve")])
def test_what_is_not_installed_is_named(artefacts: Path, prompts: Path, missing: str, option: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from router_svc.evaluate import app; app()"
    arguments = ["--prompts", prompts, "--artefacts", artefacts, "--compare", "pinned", option, prompts]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)  # noqa: S603  # ours

    assert done.returncode == 2
    assert done.stderr == f"{option} needs {missing}: pip install 'expertmesh[fit]'\n"


def test_a_learning_curve_is_not_fitted_on_what_it_is_tried_on() -> None:
    grown = corpus(64)

    points = learning_curve(
        grown, grown[:14], serve=["general", "math"], generalist="general", progress=lambda step, done, of: None
    )

    assert points[-1].fitted_on == 50


def test_the_plane_keeps_the_two_directions_of_most_variance() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 5)) * [9, 0.1, 4, 0.1, 0.1] + 3

    points, kept = flatten(vectors)

    assert abs(np.corrcoef(points[:, 0], vectors[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], vectors[:, 2])[0, 1]) > 0.99
    assert kept[0] > kept[1] > 0.1
    assert sum(kept) == pytest.approx(1, abs=0.01)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(-5, 5))
def test_any_vectors_have_a_plane(rows: int, dimensions: int, value: float) -> None:
    vectors = np.full((rows, dimensions), value)

    points, kept = flatten(vectors)

    assert points.shape == (rows, 2)
    assert np.isfinite(points).all()
    assert 0 <= kept[1] <= kept[0] <= 1 + 1e-9
