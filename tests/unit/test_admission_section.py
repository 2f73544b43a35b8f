"""What the mesh file may say of admission."""

from typing import Any

import pytest
from pydantic import ValidationError

from mesh_wire.admission_section import PRIORITIES
from mesh_wire.settings import RouterSection


def read(**admission: Any) -> RouterSection:
    return RouterSection.model_validate({"strategy": "round_robin", "admission": admission})


def test_without_a_word_of_it_nobody_is_limited() -> None:
    others = RouterSection(strategy="round_robin").admission.others

    assert (others.requests_per_s, others.tokens_per_s, others.max_in_flight) == (None, None, None)
    assert (others.priority, others.best_priority) == ("standard", PRIORITIES[0])


def test_callers_have_limits_by_name() -> None:
    section = read(max_wait_s=2, callers={"shop": {"weight": 4, "requests_per_s": 50}}).admission

    assert section.max_wait_s == 2
    assert section.callers["shop"].weight == 4


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"queue": 0}, "admission.queue"),
        ({"max_wait_s": 0}, "admission.max_wait_s"),
        ({"max_wait_s": float("inf")}, "admission.max_wait_s"),
        ({"lower_share": 1}, "admission.lower_share"),
        ({"que": 1}, "admission.que"),
        ({"callers": {"shop": {"weight": 0}}}, "admission.callers.shop.weight"),
        ({"callers": {"shop": {"tokens_per_s": -1}}}, "admission.callers.shop.tokens_per_s"),
        ({"callers": {"shop": {"priority": "urgent"}}}, "admission.callers.shop.priority"),
        ({"callers": {"two words": {}}}, "admission.callers.two words.[key]"),
        ({"others": {"priority": "interactive", "best_priority": "batch"}}, "admission.others"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as told:
        read(**wrong)

    assert [".".join(map(str, error["loc"])) for error in told.value.errors()] == [where]
