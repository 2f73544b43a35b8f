"""The strategy `cascade`: two strategies, one margin, one artefact that names both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from router_svc.fitting import cascade as cascade_fit
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.recipe import FitError
from router_svc.strategies import artefact as artefacts
from router_svc.strategies import opening
from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.cascade import Cascade, margins, mixed
from router_svc.strategies.lexical import Lexical
from router_svc.strategies.opening import open_strategy
from support.corpora import AWKWARD, TOPICS, corpus, small_lexical

LEXICAL = Lexical(small_lexical())


class ByLetter:
    """Stands for an encoder: a prompt's first letter decides; knows nothing of others. Columns in another order."""

    name, created = "encoder", ""
    experts = tuple(reversed(TOPICS))

    def __init__(self, artefact: Artefact | None = None) -> None:
        self.generation = artefact.id if artefact else "letters"
        self.asked: list[str] = []
        if artefact:
            self.experts = artefact.experts

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += prompts
        rows = np.full((len(prompts), len(self.experts)), 0.1, dtype=np.float32)
        for row, prompt in zip(rows, prompts, strict=True):
            for place, expert in enumerate(self.experts):
                row[place] += 5 * (prompt[:1] == expert[0])
        return rows / rows.sum(axis=1, keepdims=True)


def cascade(margin: float = 0.5, weight: float = 0.5) -> tuple[Cascade, ByLetter]:
    encoder = ByLetter()
    return Cascade(LEXICAL, encoder, margin=margin, weight=weight, generation="1"), encoder


def test_what_lexical_is_sure_of_is_never_asked_of_the_encoder() -> None:
    opened, encoder = cascade()

    scores = opened.scores(list(TOPICS.values()))

    assert np.array_equal(scores, LEXICAL.scores(list(TOPICS.values())))
    assert not encoder.asked


def test_what_it_is_unsure_of_is_decided_by_both() -> None:
    opened, encoder = cascade()

    scores = opened.scores([TOPICS["law"], "mmm", "hmm"])

    assert [opened.experts[place] for place in scores.argmax(axis=1)] == ["law", "math", "health"]
    assert encoder.asked == ["mmm", "hmm"]


def test_all_the_weight_leaves_the_decision_to_the_encoder() -> None:
    opened, encoder = cascade(margin=1.0, weight=1.0)
    columns = [encoder.experts.index(expert) for expert in opened.experts]

    np.testing.assert_allclose(opened.scores(["mmm"]), encoder.scores(["mmm"])[:, columns], atol=1e-6)


@given(st.lists(st.text() | st.sampled_from([*AWKWARD, *TOPICS.values()]), max_size=6))
def test_any_batch_gets_rows_that_sum_to_1_and_are_those_of_each_prompt_alone(prompts: list[str]) -> None:
    opened, _ = cascade()
    scores = opened.scores(prompts)

    assert scores.shape == (len(prompts), len(TOPICS))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert all(np.array_equal(row, opened.scores([prompt])[0]) for row, prompt in zip(scores, prompts, strict=True))


def test_two_that_score_different_experts_make_no_cascade() -> None:
    encoder = ByLetter()
    encoder.experts = ("law", "poetry")

    with pytest.raises(ValueError, match="lexical scores coding, general, health, law, math, but encoder law, poetry"):
        Cascade(LEXICAL, encoder, margin=0.5, generation="1")


def test_the_margin_is_the_lead_of_the_best_score() -> None:
    scores = np.array([[0.5, 0.2, 0.3], [1, 0, 0], [0.4, 0.4, 0.2]], dtype=np.float32)

    np.testing.assert_allclose(margins(scores), [0.2, 1, 0], atol=1e-6)
    assert margins(np.ones((2, 1), dtype=np.float32)).tolist() == [1, 1]


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_a_mean_of_logarithms_is_a_distribution_whatever_the_opinions(rows: NDArray[np.float32]) -> None:
    found = mixed([rows, rows[::-1]], [0.5, 0.5])

    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_equal_opinions_are_their_own_mean() -> None:
    rows = np.array([[0.7, 0.2, 0.1]], dtype=np.float32)

    np.testing.assert_allclose(mixed([rows, rows], [0.5, 0.5]), rows, atol=1e-6)


def test_of_the_margins_within_the_loss_the_largest_that_may_be_afforded_is_chosen() -> None:
    drafts = np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.52, 0.48]], dtype=np.float32)
    finished = np.array([[0, 1], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])

    points = cascade_fit.curve(drafts, finished, labels)

    assert (points[0]["asked"], points[0]["accuracy"]) == (0.0, 0.25)
    assert (points[-1]["asked"], points[-1]["accuracy"]) == (1.0, 0.5)
    assert max(point["accuracy"] for point in points) == 0.75
    assert cascade_fit.chosen(points, 0.0, asks=0.8) == {"margin": 0.78, "asked": 0.75, "accuracy": 0.75}
    assert cascade_fit.chosen(points, 0.0, asks=0.0)["margin"] == 0.22  # no margin is good that asks nothing
    assert cascade_fit.chosen(points, 1.0, asks=0.0)["margin"] == 0.02


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `lexical` and `encoder`, whose model is replaced by one that reads letters."""
    artefacts.save(tmp_path / "lexical", small_lexical())
    artefacts.save(tmp_path / "encoder", replace(small_lexical(), strategy="encoder", words=(), tensors={}))
    fitted = opening._fitted

    def opened(name: str, loaded: Artefact, examples: Any) -> Any:
        return ByLetter(loaded) if name == "encoder" else fitted(name, loaded, examples)

    monkeypatch.setattr(opening, "_fitted", opened)
    return tmp_path


def fitted(folders: Path, lines: Sequence[LabelledPrompt] | None = None) -> Artefact:
    return cascade_fit.fit(
        corpus(40, seed=9) if lines is None else lines,
        lexical=folders / "lexical",
        encoder=folders / "encoder",
        out=folders / "cascade",
        loss=0.005,
        asks=0.2,
        sources=[],
    )


def test_a_cascade_is_fitted_saved_and_opened_with_its_two_parts(folders: Path) -> None:
    lines = [*corpus(20, seed=9), *[LabelledPrompt(f"{domain[0]}mm", domain, "") for domain in TOPICS]]
    name = artefacts.save(folders / "cascade", fitted(folders, lines))

    opened = open_strategy("cascade", artefact=folders / "cascade", experts=[], pinned=None, seed=0)

    assert isinstance(opened, Cascade)
    assert (opened.name, opened.generation, opened.experts) == ("cascade", name, tuple(TOPICS))
    assert 0 < opened.margin <= 1
    scores = opened.scores([line.prompt for line in lines])
    assert [opened.experts[place] for place in scores.argmax(axis=1)] == [line.domain for line in lines]


def test_the_shipped_artefact_opens_with_the_shipped_parts() -> None:
    shipped = Path(__file__).parents[2] / "models/router/cascade"

    opened = open_strategy("cascade", artefact=shipped, experts=[], pinned=None, seed=0)

    prompts = ["Write a python function that reverses a list.", "The patient has cancer of the blood.", "\ud800", ""]
    best = opened.scores(prompts).argmax(axis=1)
    assert [opened.experts[place] for place in best[:2]] == ["coding", "health"]


def test_a_part_that_was_fitted_anew_is_refused(folders: Path) -> None:
    artefacts.save(folders / "cascade", fitted(folders))
    artefacts.save(folders / "lexical", replace(small_lexical(), settings={"another": "fit"}))

    with pytest.raises(ArtefactError, match=r"was made for lexical [0-9a-f]{12}, but .*lexical holds [0-9a-f]{12}"):
        open_strategy("cascade", artefact=folders / "cascade", experts=[], pinned=None, seed=0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"margin": float("nan")}, "margin is nan, not a number from 0 to 1"),
        ({"margin": True}, "margin is True, not a number"),
        ({"encoder_weight": 2}, "encoder_weight is 2, not a number from 0 to 1"),
        ({"encoder_weight": None}, "encoder_weight is None, not a number"),
        ({"lexical": "../lexical"}, "does not say where the artefact of lexical is"),
        ({"encoder": {"folder": 3, "id": ""}}, "does not say where the artefact of encoder is"),
        ({"encoder": {"folder": "\0", "id": ""}}, "the folder of encoder is not a path"),
        ({"encoder": {"folder": "nowhere", "id": ""}}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_line(
    folders: Path, settings: dict[str, Any], problem: str
) -> None:
    made = fitted(folders)
    artefacts.save(folders / "cascade", replace(made, settings={**made.settings, **settings}))

    with pytest.raises(ArtefactError, match=problem) as refusal:
        open_strategy("cascade", artefact=folders / "cascade", experts=[], pinned=None, seed=0)

    assert "\n" not in str(refusal.value)


def test_an_artefact_of_another_strategy_is_no_cascade(folders: Path) -> None:
    with pytest.raises(ArtefactError, match="fitted for strategy 'lexical', not 'cascade'"):
        open_strategy("cascade", artefact=folders / "lexical", experts=[], pinned=None, seed=0)


def test_parts_for_different_experts_and_prompts_without_their_domains_are_refused(folders: Path) -> None:
    with pytest.raises(FitError, match="no prompt has a domain among coding"):
        fitted(folders, [LabelledPrompt("x", "poetry", "")])

    artefacts.save(folders / "encoder", replace(small_lexical(), strategy="encoder", experts=("a", "b")))
    with pytest.raises(ArtefactError, match="scores a, b, but"):
        fitted(folders)
