"""`router_svc.evaluate`: a strategy, labelled prompts, and what comes out."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router_svc.evaluate import app
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.strategies.artefact import save
from support.corpora import TOPICS, corpus, small_artefact, write_corpus


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    save(tmp_path / "artefact", small_artefact())
    return tmp_path / "artefact"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [*corpus(50, seed=4), LabelledPrompt("🦙 12", "general", "")]
    return write_corpus(tmp_path / "prompts.jsonl", lines)


def report(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json_is_one_object_with_every_figure(artefact: Path, prompts: Path) -> None:
    found = report("--prompts", prompts, "--artefact", artefact)

    assert found["strategy"] == "clusters"
    assert found["prompts"] == 51
    assert 0.9 < found["accuracy"] <= 1
    assert 0.9 < found["macro_recall"] <= 1
    assert 0.9 < found["domain_accuracy"] <= 1
    assert 0 <= found["ece"] <= 1
    assert found["us_per_prompt"] > 0
    assert 0 < found["us_per_prompt"] <= found["us_per_prompt_p99"]
    assert found["us_per_prompt_mean"] > 0
    assert found["us_per_prompt_batched"] > 0
    assert found["balance"]["without_cluster"] == 1
    assert len(found["balance"]["shares"]) == 6
    assert found["per_source"]["made-up"]["prompts"] == 50
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 51


def test_a_domain_that_no_expert_serves_is_the_generalist_s(artefact: Path, prompts: Path) -> None:
    found = report("--prompts", prompts, "--artefact", artefact)

    assert list(found["confusion"]) == ["general", "math", "coding", "health"]
    assert sum(found["confusion"]["general"].values()) == 21  # general and law, and the one without words

    alone = report("--prompts", prompts, "--artefact", artefact, "--serve", "law", "--generalist", "law")

    assert alone["accuracy"] == 1.0


@pytest.mark.parametrize(("strategy", "accuracy"), [("pinned", 21 / 51), ("round_robin", None), ("random", None)])
def test_controls_need_no_artefact(prompts: Path, strategy: str, accuracy: float | None) -> None:
    found = report("--prompts", prompts, "--strategy", strategy, "--artefact", "nowhere")

    assert found["strategy"] == strategy
    assert found["balance"]["of"] == "experts"
    assert accuracy is None or found["accuracy"] == pytest.approx(accuracy)


def test_a_domain_that_the_artefact_never_saw_is_never_found(artefact: Path, tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "odd.jsonl", [LabelledPrompt("python code", "poetry", "")] * 3)

    found = report("--prompts", path, "--artefact", artefact)

    assert found["domain_accuracy"] == 0
    assert found["accuracy"] == 0  # it counts as the generalist's, and the prompts went to coding


def test_the_tables_show_the_same_figures(artefact: Path, prompts: Path) -> None:
    result = run("--prompts", prompts, "--artefact", artefact)

    assert result.exit_code == 0, result.output
    for expected in ("accuracy", "macro recall", "Confusion", "made-up", "Balance over clusters", "µs"):
        assert expected in result.stdout


def test_bad_input_is_named_in_one_line(artefact: Path, prompts: Path, tmp_path: Path) -> None:
    unlabelled = write_corpus(tmp_path / "unlabelled.jsonl", corpus(4), labelled=False)
    cases: dict[str, list[str | Path]] = {
        "nowhere.jsonl: cannot be read": ["--prompts", tmp_path / "nowhere.jsonl"],
        "4 of 4 prompts have no 'domain'": ["--prompts", unlabelled],
        "manifest.json: cannot be read": ["--prompts", prompts, "--artefact", tmp_path],
        "unknown strategy 'oracle'": ["--prompts", prompts, "--strategy", "oracle"],
        "the generalist 'poet' is not among": ["--prompts", prompts, "--artefact", artefact, "--generalist", "poet"],
        "named twice": ["--prompts", prompts, "--artefact", artefact, "--serve", "general,general"],
        "cannot pin to 'law'": ["--prompts", prompts, "--strategy", "pinned", "--pinned", "law"],
    }
    for problem, arguments in cases.items():
        result = run(*arguments)

        assert result.exit_code == 2, problem
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1
        assert not result.stdout


def test_topics_are_domains_of_the_artefact() -> None:
    assert small_artefact().experts == tuple(TOPICS)
