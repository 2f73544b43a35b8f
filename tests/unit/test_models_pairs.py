"""What the adapters are trained on, and what is shipped of it."""

import ast
import json
import re
import sysconfig
from pathlib import Path

import pytest
from safetensors import safe_open

from support.model_scripts import MODELS, script

ADAPTERS = MODELS / "adapters"
DOMAINS = ("math", "coding", "health")
ABSOLUTE_PATH = re.compile(rb"""["'`(\s](/[A-Za-z0-9._-]+){2,}|[A-Z]:\\\\""")


pairs = script("pairs")

MODULE = '''
class Box:
    def area(self, scale=1):
        """Return the area of the box, scaled.

        In square metres.
        """

        # Both sides are known.
        width = self.width * scale
        height = self.height * scale
        return width * height

    def _secret(self):
        """A private method that nobody would ask for."""
        return self.width * self.height * self.depth * self.density

    def stub(self):
        """A function that only says it is not there."""
        raise NotImplementedError("this one is not there, whoever asks for it")

    def one_line(self): "A docstring beside its def, which is left alone."; return self.width * self.height * self.depth

def outer(values):
    """A function with a documented one inside of it."""
    def inner(value):
        """Documented too."""
        return value * 2
    return [inner(value) for value in values]
'''


def made_up(count: int) -> list:
    return [pairs.Pair(prompt=f"question {n}", response=f"answer {n}", group=f"question {n}") for n in range(count)]


def standard_library_pairs() -> list:
    stdlib = Path(sysconfig.get_path("stdlib"))
    return [
        pair
        for name in ("textwrap.py", "statistics.py", "fractions.py", "shutil.py")
        for pair in pairs.module_pairs((stdlib / name).read_text(encoding="utf-8"), group=name)
    ]


def test_the_split_is_the_same_whatever_order_the_pairs_come_in():
    forward, backward = pairs.split(made_up(500)), pairs.split(reversed(made_up(500)))

    assert set(forward.train) == set(backward.train)
    assert set(forward.unseen) == set(backward.unseen)


def test_the_split_does_not_move_between_versions_of_the_script():
    """A shipped figure says "unseen"; it would be false for a split that has moved since."""
    unseen = {pair.prompt for pair in pairs.split(made_up(40)).unseen}

    assert unseen == {"question 2", "question 9", "question 16", "question 17", "question 30"}


def test_no_group_prompt_or_response_is_on_both_sides_of_the_split():
    parts = pairs.split([*made_up(500), *standard_library_pairs()])

    for part in ("group", "prompt", "response"):
        trained = {pairs.plain(getattr(pair, part)) for pair in parts.train}
        assert trained.isdisjoint(pairs.plain(getattr(pair, part)) for pair in parts.unseen)


def test_twins_that_differ_in_case_and_white_space_are_dropped():
    twins = [
        pairs.Pair("What is 1 + 1?", "2", "a"),
        pairs.Pair("what is  1 + 1?\n", "two", "b"),
        pairs.Pair("And 4 - 2?", " 2 ", "c"),
    ]

    assert list(pairs.without_twins(twins)) == twins[:1]


def test_the_unseen_share_is_about_what_was_asked_for():
    parts = pairs.split(made_up(2000), unseen_share=0.25)

    assert len(parts.unseen) / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_sample_is_fixed_and_grows_without_changing():
    many = made_up(100)

    assert pairs.sample(many, 10) == pairs.sample(many[::-1], 10)
    assert pairs.sample(many, 10) == pairs.sample(many, 30)[:10]


def test_a_function_loses_its_docstring_and_keeps_its_comments():
    [pair] = pairs.module_pairs(MODULE, group="box.py")

    assert pair.response == (
        "def area(self, scale=1):\n"
        "    # Both sides are known.\n"
        "    width = self.width * scale\n"
        "    height = self.height * scale\n"
        "    return width * height"
    )
    assert pair.prompt.endswith("Return the area of the box, scaled.\n\nIn square metres.")


def test_coding_responses_parse_and_hold_no_docstring():
    found = standard_library_pairs()

    assert len(found) > 30
    for pair in found:
        [function] = ast.parse(pair.response).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        assert not any(ast.get_docstring(node) for node in inner)
        assert len(pair.response) in pairs.RESPONSE_CHARS


def test_written_pairs_are_read_from_json_lines(tmp_path):
    lines = tmp_path / "math.jsonl"
    lines.write_text('{"prompt": " What is 2 + 2? ", "response": "#### 4\\n"}\n')

    assert list(pairs.written_pairs(lines)) == [pairs.Pair("What is 2 + 2?", "#### 4", "What is 2 + 2?")]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_shipped_adapter_is_small_in_bf16_and_within_vllms_default_rank(domain):
    weights = ADAPTERS / domain / "adapter_model.safetensors"

    assert weights.stat().st_size <= 5_000_000
    with safe_open(weights, framework="numpy") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118 - no iterator
    config = json.loads((ADAPTERS / domain / "adapter_config.json").read_text())
    assert config["r"] <= 16
    assert config["base_model_name_or_path"] == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_shipped_adapter_names_no_place_on_the_machine_that_made_it(domain):
    for file in (ADAPTERS / domain).iterdir():
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            content = content[8 : 8 + int.from_bytes(content[:8], "little")]  # the header; the rest is numbers
        assert not ABSOLUTE_PATH.search(content), file


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_shipped_adapter_meets_its_target_on_unseen_pairs(domain):
    measured = json.loads((ADAPTERS / "perplexity.json").read_text())
    own, base = measured["perplexity"][domain][domain], measured["perplexity"]["base"][domain]

    assert measured["pairs"][domain] >= 90
    assert own / base == pytest.approx(measured["own_domain_ratio"][domain], abs=0.001)
    assert own / base <= {"math": 0.70, "coding": 0.85, "health": 0.70}[domain]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_model_cards_show_the_recorded_figures(domain):
    cards = script("cards")
    measured = json.loads((ADAPTERS / "perplexity.json").read_text())
    trained = json.loads((ADAPTERS / domain / "training.json").read_text())

    assert (ADAPTERS / domain / "README.md").read_text(encoding="utf-8") == cards.card(domain, trained, measured)
    assert cards.matrix(measured) in (MODELS / "README.md").read_text(encoding="utf-8")
