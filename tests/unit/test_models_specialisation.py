"""Whether specialisation and blending pay: how the answers' losses become figures."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from support.model_scripts import script

held_out = script("held_out")
losses = script("losses")
pairs = script("pairs")
soft_merging = script("soft_merging")
specialisation = script("specialisation")
word_problems = script("word_problems")

GROUP = specialisation.Group(expert="math", pairs=(), examples=())


def test_each_way_takes_the_nats_of_whom_it_sends_the_prompt_to() -> None:
    sums = {"general": [(4.0, 2), (8.0, 2)], "math": [(2.0, 2), (6.0, 2)]}
    sums |= {"coding": [(6.0, 2), (6.0, 2)], "health": [(8.0, 2), (8.0, 2)]}

    ways = specialisation.by_way(sums, GROUP, ["math", "health"])

    assert ways["generalist"].tolist() == [4, 8]
    assert ways["routed"].tolist() == [2, 8]
    assert ways["oracle"].tolist() == [2, 6]
    assert ways["random"].tolist() == [5, 7]


def test_a_way_that_is_better_on_every_answer_is_better_in_every_resampling() -> None:
    nats = np.linspace(10, 20, 50)
    tokens = np.full(50, 10.0)

    found = specialisation.judged({"generalist": nats, "oracle": nats - 1}, tokens)

    assert found["generalist"]["ratio_95"] == [1.0, 1.0]
    assert found["oracle"]["ratio"] == pytest.approx(np.exp(-0.1), abs=1e-4)
    assert found["oracle"]["ratio_95"][1] < 1
    assert found["oracle"]["perplexity"] == pytest.approx(np.exp(1.4), abs=1e-3)


def test_below_the_threshold_the_generalist_answers() -> None:
    class Sure:
        name, experts, generation = "sure", ("math", "law", "coding"), "1"

        def scores(self, prompts: list[str]) -> np.ndarray:
            return np.array([[0.6, 0.1, 0.3], [0.35, 0.3, 0.35], [0.2, 0.7, 0.1]], dtype=np.float32)

    router = specialisation.Router(Sure(), threshold=0.5)

    assert router.choices([pairs.Pair(text, "", "") for text in "abc"]) == ["math", "general", "general"]


@pytest.mark.parametrize(
    ("scores", "first", "second", "share"),
    [
        ((0.1, 0.5, 0.4, 0.0), "math", "coding", 0.5),
        ((0.2, 0.7, 0.1, 0.0), "math", "general", 0.75),
        ((0.0, 0.05, 0.0, 0.95), "health", "math", 1.0),
    ],
)
def test_a_blend_by_score_is_of_the_two_best_in_steps(
    scores: tuple[float, ...], first: str, second: str, share: float
) -> None:
    found = soft_merging.close(np.array(scores, dtype=np.float32))

    assert (found.first, found.second, found.share) == (first, second, share)


def test_a_blend_with_the_generalist_is_the_expert_at_part_strength() -> None:
    ways = soft_merging.Close("general", "math", margin=0.1, share=0.75).ways

    assert ways["routed"] == losses.blend_of()
    assert ways["half and half"] == (("math", 0.5),)
    assert ways["by score"] == (("math", 0.25),)
    assert losses.named(ways["routed"]) == "base"


def test_blends_are_judged_beside_the_routed_expert_and_the_better_of_the_two() -> None:
    ways = {
        "generalist": [3.0, 3.0],
        "routed": [2.0, 4.0],
        "half and half": [1.0, 3.5],
        "by score": [2.0, 4.0],
        "better in hindsight": [2.0, 3.0],
        "tokens": [1.0, 1.0],
    }

    found = soft_merging.compared({way: np.array(nats) for way, nats in ways.items()}, np.array([True, True]))

    assert found["ways"]["half and half"]["ratio"] == pytest.approx(np.exp(-0.75), abs=1e-4)
    assert found["beats_the_better"] == {"half and half": 0.5, "by score": 0.0}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("She has 3 + 4 = <<3+4=7>>7.\n#### 7", "7"),
        ("#### 1,250\nand 3 more", "1250"),
        ("So the answer is $2.50, or 5.", "5"),
        ("It fell to -4 degrees", "-4"),
        ("####", None),
        ("none", None),
        ("12 eggs. ####", "12"),
    ],
)
def test_the_number_of_an_answer_is_the_marked_one_or_the_last(text: str, result: str | None) -> None:
    assert word_problems.result_in(text) == (Decimal(result) if result else None)


def test_held_out_pairs_are_in_no_corpus_and_were_not_drawn_for_training(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}?", "response": f"Answer {n}"} for n in range(200)]
    (tmp_path / "math.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"question  {n}?"}) for n in range(0, 200, 4))
    )
    trained = pairs.sample(pairs.load_split("math", tmp_path).train, 50)

    found = held_out.held_out(
        "math",
        tmp_path,
        trained=trained,
        elsewhere=held_out.prompts_in([tmp_path / "corpus.jsonl"]),
        count=1000,
    )

    left = {row["prompt"] for n, row in enumerate(rows) if n % 4} - {pair.prompt for pair in trained}
    assert {pair.prompt for pair in found} == left


def test_functions_of_installed_packages_are_of_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "PACKAGES", ("rich",))

    found = list(held_out.package_pairs())

    assert len(found) > 20
    assert all(pair.group.startswith("rich/") and "_vendor" not in pair.group for pair in found)
