"""What is concluded from a characterisation's rows: knees, reach, and a verdict with its sentence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.characterise.configurations import Configuration, simulated
from benchmarks.characterise.findings import CLAIMS, findings
from benchmarks.characterise.knees import carries, saturates_at
from benchmarks.characterise.rows import Row, Series, series_of
from support.characterisation import row

LADDERS = st.lists(st.integers(1, 2000), min_size=2, max_size=9, unique=True).map(sorted)
KNOWN = {each.key: each for each in simulated(5000)}


@given(LADDERS, st.floats(0.1, 1e4))
def test_rates_that_rise_with_the_users_have_no_knee_but_near_the_last_rung(users: list[int], each: float) -> None:
    knee = saturates_at(users, [each * load for load in users])
    assert knee is None or knee >= 0.8 * users[-1]


@given(LADDERS, st.floats(0.1, 1e4))
def test_rates_that_do_not_rise_bend_at_the_first_rung(users: list[int], rate: float) -> None:
    assert saturates_at(users, [rate] * len(users)) == users[0]


@given(LADDERS, st.data(), st.floats(1e-3, 1e3))
def test_a_knee_does_not_depend_on_the_unit_of_rates(users: list[int], data: st.DataObject, unit: float) -> None:
    rates = data.draw(st.lists(st.floats(1, 1e4), min_size=len(users), max_size=len(users)))
    # A rate that is 80 % of the highest but for a rounding error may fall on either side.
    if not any(abs(rate / max(rates) - 0.8) < 1e-6 for rate in rates):
        assert saturates_at(users, rates) == saturates_at(users, [rate * unit for rate in rates])


@given(LADDERS, st.data())
def test_before_a_knee_every_rate_is_below_it_and_rungs_above_bring_little(
    users: list[int], data: st.DataObject
) -> None:
    rates = data.draw(st.lists(st.floats(0, 1e4), min_size=len(users), max_size=len(users)))

    if (knee := saturates_at(users, rates)) is not None:
        at = users.index(knee)
        assert knee != users[-1]
        assert all(rate < rates[at] for rate in rates[:at])
        assert max(rates) <= rates[at] / 0.8 * (1 + 1e-9)


def test_nothing_measured_has_no_knee() -> None:
    assert saturates_at([], []) is None
    assert saturates_at([1], [5.0]) is None
    assert saturates_at([1, 10], [0.0, 0.0]) is None


@given(LADDERS, st.data(), st.floats(0, 10))
def test_a_load_is_carried_as_far_as_no_rung_below_it_was_too_slow(
    users: list[int], data: st.DataObject, limit_s: float
) -> None:
    times = data.draw(st.lists(st.none() | st.floats(0, 20), min_size=len(users), max_size=len(users)))

    heaviest = carries(users, times, limit_s)

    kept = [time is not None and time <= limit_s for time in times]
    if heaviest:
        assert all(kept[: users.index(heaviest) + 1])
        assert kept[users.index(heaviest) + 1 : users.index(heaviest) + 2] in ([], [False])
    else:
        assert not kept[0]


def verdicts(rows: list[Row], *, kind: str = "simulated", known: dict[str, Configuration] = KNOWN) -> dict[str, str]:
    return {each.letter: each.verdict for each in findings(series_of(known.values(), rows), kind)}


def test_every_finding_of_the_paper_gets_a_verdict_even_where_there_is_nothing() -> None:
    told = findings([], "real")

    assert [each.letter for each in told] == list(CLAIMS)
    assert {each.verdict for each in told} == {"not testable here"}
    assert all(each.sentence for each in told)


@pytest.mark.parametrize(("routed_s", "verdict"), [(1.02, "supported"), (1.2, "not supported")])
def test_routing_is_cheap_where_answers_take_about_as_long_without_it(routed_s: float, verdict: str) -> None:
    rows = [row("hop", users, session_s=routed_s) for users in (1, 10)]
    rows += [row("hop", users, way="direct") for users in (1, 10)]

    assert verdicts(rows)["A"] == verdict


@pytest.mark.parametrize(("other", "verdict"), [(500.0, "supported"), (9_000.0, "not supported")])
def test_configurations_dominate_where_they_differ_by_more_than_routing_does(other: float, verdict: str) -> None:
    rows = [
        row("8b-16bit", 100),
        row("8b-random", 100, tokens_per_s=9_000.0),
        row("70b-fp8-tp4", 100, tokens_per_s=other),
    ]

    assert verdicts(rows)["B"] == verdict


def test_large_experts_are_stable_while_neither_rates_fall_nor_first_tokens_are_late() -> None:
    steady = [row("70b-fp8-tp4", users) for users in (10, 50, 100)]

    assert verdicts(steady)["C"] == "supported"
    assert verdicts([*steady[:2], row("70b-fp8-tp4", 100, first_token_s=0.9)])["C"] == "not supported"
    assert verdicts([*steady[:2], row("70b-fp8-tp4", 100, tokens_per_s=900.0)])["C"] == "not supported"
    assert verdicts(steady[:1])["C"] == "not testable here"


def test_small_experts_carry_more_only_if_each_of_them_does() -> None:
    def ladder(key: str, slow_from: int) -> list[Row]:
        return [row(key, users, first_token_s=5.0 if users >= slow_from else 0.1) for users in (1, 10, 100)]

    assert verdicts(ladder("8b-16bit", 1000) + ladder("70b-fp8-tp8", 100))["D"] == "supported"
    assert verdicts(ladder("8b-16bit", 100) + ladder("70b-fp8-tp8", 100))["D"] == "not supported"
    beside = ladder("8b-16bit", 1000) + ladder("8b-fp8", 10) + ladder("70b-fp8-tp8", 100)
    assert verdicts(beside)["D"] == "not supported"


def test_what_is_derived_does_not_win_for_the_experts() -> None:
    baseline = [row("70b-fp8-tp8", users) for users in (1, 100)]
    derived = [row("70b-int4", users, tokens_per_s=1e6) for users in (1, 100)]

    assert verdicts(baseline + derived)["E"] == "not testable here"
    assert verdicts([*baseline, row("8b-16bit", 1), row("8b-16bit", 100, tokens_per_s=3e4)])["E"] == "supported"


def test_kinds_are_judged_apart() -> None:
    real = {key: replace(each, kind="real") for key, each in KNOWN.items()}
    rows = [row("hop", 1), row("hop", 1, way="direct")]

    assert verdicts(rows, kind="real")["A"] == "not testable here"
    assert verdicts(rows, kind="real", known=real)["A"] == "supported"


def test_a_series_knows_its_rows_by_their_load() -> None:
    [series] = series_of(KNOWN.values(), [row("hop", 10), row("hop", 1), row("hop", 1, way="direct")])

    assert isinstance(series, Series)
    assert series.users == [1, 10]
    assert series.at(10) is series.routed[1]
    assert series.at(7) is None
