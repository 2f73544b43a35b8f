"""Prompts as people type them: those that routers learn from, and how the shipped default does on others."""

import json
from pathlib import Path

import pytest

from mesh_wire import mesh_file
from router_svc.evaluation.verdict import attempt, report
from router_svc.fitting.corpus import LabelledPrompt, read_prompts
from router_svc.strategies.opening import open_strategy
from support.model_scripts import script

ROOT = Path(__file__).parents[2]
TYPED = ROOT / "tests/data/everyday_prompts.jsonl"
DOMAINS = {"coding", "general", "health", "law", "math", "science"}
everyday = script("everyday")
SERVED = ["general", "math", "coding", "health"]


@pytest.fixture(scope="module")
def typed() -> list[LabelledPrompt]:
    return read_prompts(TYPED)


def plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())


def test_the_same_prompts_come_out_each_time_alike_in_number_for_every_domain() -> None:
    made = list(everyday.prompts(each=40))
    assert made == list(everyday.prompts(each=40))
    assert {prompt["domain"] for prompt in made} == DOMAINS
    assert len({(prompt["domain"], prompt["prompt"]) for prompt in made}) == 40 * len(DOMAINS)


def test_no_slot_is_left_open() -> None:
    named = everyday.material()["parts"]
    for prompt in everyday.prompts():
        assert "{}" not in prompt["prompt"]
        assert not any(f"[{name}]" in prompt["prompt"] for name in named), prompt


def test_nothing_that_is_learnt_from_is_tried_on(typed: list[LabelledPrompt]) -> None:
    assert not {plain(prompt["prompt"]) for prompt in everyday.prompts()} & {plain(line.prompt) for line in typed}


def test_the_default_routes_what_people_type(typed: list[LabelledPrompt]) -> None:
    section = mesh_file.read(ROOT / "mesh.yaml").router
    opened = open_strategy(section.strategy, artefact=section.artefact, experts=(), pinned=None, seed=0)

    found = report(attempt(opened, typed, serve=SERVED, generalist="general"))

    figures = {name: found[name] for name in ("accuracy", "macro_recall", "domain_accuracy", "recall")}
    assert found["accuracy"] >= 0.80, json.dumps(figures)
    assert found["macro_recall"] >= 0.72, json.dumps(figures)
    assert found["domain_accuracy"] >= 0.75, json.dumps(figures)
