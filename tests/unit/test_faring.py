"""When a strategy is said to be in trouble."""

import pytest

from router_svc.classifying.classification import FAILED, OVER_BUDGET, Scored
from router_svc.classifying.faring import LATEST, LEAST, RECENT_S, Faring


def scored(strategy: str = "cascade", fallback: str = "") -> Scored:
    return Scored({"math": 1.0}, strategy, "cascade", fallback, "abc", 1.0)


DECIDED, SURE_AT_ONCE = scored(), scored("lexical")
LATE, BROKEN = scored("lexical", OVER_BUDGET), scored("lexical", FAILED)


def after(*several: Scored) -> str:
    faring = Faring()
    for one in several:
        faring.note(one)
    return faring.trouble


@pytest.mark.parametrize(
    "well",
    [
        [],
        [DECIDED] * 100,
        [SURE_AT_ONCE] * 100,
        [BROKEN] * (LEAST - 1),
        [DECIDED, BROKEN] * 50,
        [BROKEN] * LATEST + [DECIDED] * (LATEST // 2),
    ],
)
def test_it_is_well_until_most_of_its_latest_prompts_were_decided_by_another(well: list[Scored]) -> None:
    assert after(*well) == ""


def test_its_trouble_is_told_by_cause() -> None:
    said = after(*[LATE] * 6, *[BROKEN] * 3, DECIDED)
    assert said.endswith("it did not decide 9: over_budget 6, strategy_failed 3")


def test_what_a_first_stage_is_sure_of_neither_hides_trouble_nor_makes_it() -> None:
    assert after(*([SURE_AT_ONCE] * 9 + [BROKEN]) * LEAST)


def test_old_trouble_is_forgotten_and_so_is_that_of_the_strategy_before() -> None:
    now = 0.0
    faring = Faring(lambda: now)
    for _ in range(LEAST):
        faring.note(BROKEN)
    assert faring.trouble
    now = RECENT_S + 1
    assert not faring.trouble
    now = 0.0
    faring.begin_again()
    assert not faring.trouble
