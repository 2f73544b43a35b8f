"""From scores and the fleet's state to one replica."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.errors import MeshError, NotFound, Unavailable
from router_svc.choosing.candidate import Candidate, expected_wait_s
from router_svc.choosing.decision import (
    ANY,
    CONFIDENT,
    FULL,
    GIVEN_UP,
    HOMELESS,
    KEPT,
    LOWER,
    PINNED,
    SIBLING,
    SPILLED,
    UNSERVED,
    UNSURE,
    Decision,
    Policy,
    Wish,
)
from router_svc.choosing.drawing import NEAR
from router_svc.choosing.explaining import words_of
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import fold, price_of_s, select
from router_svc.strategies import strategy
from support.candidates import NAMES, PLACES, any_fleet, names, replica, twin, waiting

POLICY = Policy(generalist="general", threshold=0.4)
FLEET = [replica("a", "general", "math"), replica("b", "coding")]


def decide(scores: Mapping[str, float], fleet: Iterable[Candidate], policy: Policy = POLICY, **wish: Any) -> Decision:
    return select(scores, Roster(fleet), policy, Wish(**wish))


# 1 to 5: the expert


@pytest.mark.parametrize(
    ("scores", "expert", "score", "reason"),
    [
        ({"math": 0.9, "general": 0.1}, "math", 0.9, CONFIDENT),
        ({"math": 0.4, "coding": 0.3, "general": 0.3}, "math", 0.4, CONFIDENT),
        ({"math": 0.39, "coding": 0.31, "general": 0.3}, "general", 0.3, UNSURE),
        ({"general": 0.8, "math": 0.2}, "general", 0.8, CONFIDENT),
        ({"law": 0.7, "math": 0.3}, "general", 0.7, UNSERVED),
        ({"law": 0.3, "health": 0.3, "math": 0.4}, "general", 0.6, CONFIDENT),  # math was likeliest, but not likely
        ({"math": 0.5, "general": 0.5}, "general", 0.5, CONFIDENT),
        ({"math": 0.5, "coding": 0.5}, "math", 0.5, CONFIDENT),
        ({"math": 1.0}, "math", 1.0, CONFIDENT),
        ({}, "general", 0.0, UNSURE),
        ({"math": math.nan, "general": 0.5}, "general", 0.0, UNSURE),
        ({"math": math.inf}, "general", 0.0, UNSURE),
        ({"math": 0.0, "general": 0.0}, "general", 0.0, UNSURE),
        ({"x": 0.6, "y": 0.4}, "general", 1.0, UNSERVED),  # an artefact that was fitted for another fleet
    ],
)
def test_scores_decide(scores: dict[str, float], expert: str, score: float, reason: RouteReason) -> None:
    decision = decide(scores, FLEET)

    assert (decision.expert, decision.reason) == (expert, reason)
    assert decision.score == pytest.approx(score)
    assert words_of(decision, scores, POLICY)


def test_a_named_expert_answers_whatever_the_scores() -> None:
    decision = decide({"math": 1.0}, FLEET, pinned="coding")

    assert (decision.expert, decision.chosen.replica, decision.reason, decision.score) == ("coding", "b", PINNED, 0)


def test_a_named_expert_that_nobody_serves_is_not_found() -> None:
    with pytest.raises(NotFound) as missing:
        decide({}, FLEET, pinned="law")

    assert (missing.value.reason, missing.value.field) == ("EXPERT_UNKNOWN", "expert")
    assert missing.value.facts == {"expert": "law", "known": "coding, general, math"}


def test_a_named_expert_that_is_down_is_not_replaced() -> None:
    fleet = [replica("a", "general"), replica("b", "coding", serving=False)]

    with pytest.raises(Unavailable) as nobody:
        decide({}, fleet, pinned="coding")

    assert nobody.value.reason == "NO_EXPERT"


def test_the_generalist_answers_for_an_expert_that_is_down() -> None:
    scores = {"math": 0.9, "general": 0.1}
    decision = decide(scores, [replica("a", "general"), replica("b", "math", serving=False)])

    assert (decision.expert, decision.reason) == ("general", UNSERVED)
    assert words_of(decision, scores, POLICY) == "math scored best with 0.90 and is down"


def test_the_generalist_answers_for_an_expert_whose_replicas_all_failed_this_request() -> None:
    decision = decide({"coding": 0.9, "general": 0.1}, FLEET, excluded=["b:1"])

    assert (decision.expert, decision.reason) == ("general", UNSERVED)


@pytest.mark.parametrize("fleet", [[], [replica("a", "general", serving=False)], [replica("b", "math")]])
def test_nobody_answers_when_the_generalist_is_wanted_and_away(fleet: list[Candidate]) -> None:
    with pytest.raises(Unavailable) as nobody:
        decide({"law": 1.0}, fleet)

    assert (nobody.value.reason, nobody.value.facts["tokens_sent"]) == ("NO_EXPERT", "0")


def test_the_best_expert_answers_where_the_generalist_is_wanted_and_down() -> None:
    fleet = [replica("a", "general", serving=False), replica("b", "coding"), replica("c", "math")]
    scores = {"math": 0.3, "coding": 0.2, "law": 0.5}

    decision = decide(scores, fleet)

    assert (decision.expert, decision.reason) == ("math", UNSERVED)
    assert "general is down" in words_of(decision, scores, POLICY)


# 6: the precision

TWINS = Policy(generalist="general", threshold=0.4, sibling_ms=100)


def test_an_expert_s_twin_answers_where_it_is_down() -> None:
    fleet = [replica("a", "general"), replica("b", "math", serving=False), twin("c", "math")]
    scores = {"math": 0.9, "general": 0.1}

    decision = decide(scores, fleet, TWINS)

    assert (decision.expert, decision.variant, decision.chosen.replica) == ("math", "int8", "c")
    assert (decision.reason, decision.score) == (SIBLING, 0.9)
    assert words_of(decision, scores, TWINS) == (
        "it scored best with 0.90; int8 answers, since no replica of math itself may answer"
    )


@pytest.mark.parametrize(("wait_s", "variant"), [(0.05, ""), (0.11, ""), (0.12, "int8")])
def test_an_expert_s_twin_answers_where_full_precision_would_cost_too_much_waiting(wait_s: float, variant: str) -> None:
    fleet = [replica("b", "math", load=waiting(wait_s)), twin("c", "math", load=waiting(0.015))]

    decision = decide({"math": 1.0}, fleet, TWINS)

    assert decision.variant == variant
    assert decision.reason == (SIBLING if variant else CONFIDENT)
    assert decision.more
    if variant:
        assert "math itself would wait 120 ms, its twin 15 ms" in words_of(decision, {"math": 1.0}, TWINS)


def test_a_named_expert_s_twin_answers_in_its_place() -> None:
    decision = decide({}, [replica("b", "math", serving=False), twin("c", "math")], TWINS, pinned="math")

    assert (decision.reason, decision.variant) == (SIBLING, "int8")
    assert words_of(decision, {}, TWINS).startswith("the caller named it; int8 answers")


def test_the_generalist_s_twin_answers_the_unsure() -> None:
    decision = decide({"math": 0.2}, [twin("c", "general")], TWINS)

    assert (decision.expert, decision.variant, decision.reason) == ("general", "int8", SIBLING)


def test_full_precision_alone_is_never_replaced() -> None:
    fleet = [replica("a", "general"), replica("b", "math", load=waiting(9)), twin("c", "math")]
    down = [fleet[0], replica("b", "math", serving=False), fleet[2]]

    assert decide({"math": 1.0}, fleet, TWINS, precision=FULL).variant == ""
    assert decide({"math": 1.0}, down, TWINS, precision=FULL).reason == UNSERVED
    with pytest.raises(Unavailable):
        decide({"math": 1.0}, down, TWINS, precision=FULL, pinned="math")


def test_the_twin_alone_answers_whoever_asks_for_it() -> None:
    fleet = [replica("b", "math"), twin("c", "math", load=waiting(5)), replica("d", "law")]

    decision = decide({}, fleet, TWINS, precision=LOWER, pinned="math")

    assert (decision.variant, decision.reason) == ("int8", SIBLING)
    with pytest.raises(NotFound) as missing:
        decide({}, fleet, TWINS, precision=LOWER, pinned="law")
    assert (missing.value.field, missing.value.facts) == ("precision", {"expert": "law", "known": "math"})


# 7: spilling

SPILLS = Policy(generalist="general", threshold=0.4, spill_ms_per_point=10, quality_floor=0.2, sibling_ms=100)
SCORES = {"math": 0.6, "coding": 0.3, "general": 0.1}  # 30 points between the two best: 300 ms


def fleet_of(math_s: float, coding_s: float = 0.02, general_s: float = 0.02) -> list[Candidate]:
    return [
        replica("a", "general", load=waiting(general_s)),
        replica("b", "math", load=waiting(math_s)),
        replica("c", "coding", load=waiting(coding_s)),
    ]


@pytest.mark.parametrize(("queued", "expert"), [({"math": 0.2}, "math"), ({"math": 5.0}, "coding")])
def test_what_waits_for_its_turn_at_the_router_counts_as_waiting_too(queued: dict[str, float], expert: str) -> None:
    """An engine is given no more than it has places for, so its own load says nothing of how long the line is."""
    assert decide(SCORES, fleet_of(0.02), SPILLS, queued=queued).expert == expert
    both = queued | dict.fromkeys(("coding", "general"), 5.0)
    assert decide(SCORES, fleet_of(0.02), SPILLS, queued=both).expert == "math"


@pytest.mark.parametrize(("wait_s", "expert"), [(0.02, "math"), (0.31, "math"), (0.33, "coding"), (60, "coding")])
def test_an_expert_spills_where_waiting_costs_more_than_the_next_best_s_lower_score(wait_s: float, expert: str) -> None:
    decision = decide(SCORES, fleet_of(wait_s), SPILLS)

    assert decision.expert == expert
    if expert == "coding":
        assert (decision.reason, decision.best, decision.score) == (SPILLED, "math", 0.3)
        said = words_of(decision, SCORES, SPILLS)
        assert said == (
            f"math scored best with 0.60, coding 0.30; math would wait {wait_s * 1000:.0f} ms, coding 20 ms"
        )
    else:
        assert decision.reason == CONFIDENT


def test_nothing_spills_below_the_floor() -> None:
    assert decide(SCORES, fleet_of(60, coding_s=61), SPILLS).expert == "math"  # general would be free, and scored 0.1


def test_nothing_spills_where_it_is_switched_off() -> None:
    assert decide(SCORES, fleet_of(60), POLICY).reason == CONFIDENT


def test_where_every_expert_is_crowded_the_cheapest_answers() -> None:
    assert decide(SCORES, fleet_of(60, 60, 60), SPILLS).expert == "math"
    assert decide(SCORES, fleet_of(62, 60, 60), SPILLS).expert == "coding"


def test_an_expert_s_twin_comes_before_another_expert() -> None:
    fleet = [*fleet_of(60), twin("d", "math", load=waiting(0.2))]

    assert decide(SCORES, fleet, SPILLS)[:4] == (SIBLING, decide(SCORES, fleet, SPILLS).case, "math", "int8")
    full = decide(SCORES, fleet, SPILLS, precision=FULL)
    assert (full.expert, full.reason) == ("coding", SPILLED)


def test_another_expert_comes_before_a_twin_that_is_crowded_too() -> None:
    fleet = [*fleet_of(60), twin("d", "math", load=waiting(5)), twin("e", "coding", serving=False)]

    assert decide(SCORES, fleet, SPILLS).expert == "coding"


def test_a_named_expert_does_not_spill() -> None:
    assert decide(SCORES, fleet_of(60), SPILLS, pinned="math").expert == "math"


def test_the_unsure_do_not_spill() -> None:
    scores = {"math": 0.35, "coding": 0.33, "general": 0.32}

    assert decide(scores, fleet_of(0.02, general_s=60), SPILLS).expert == "general"


# The replica


def test_the_least_expected_wait_wins_among_replicas() -> None:
    fleet = [
        replica("a", "math", load=Load(running=8, waiting=4), max_running=8),
        replica("b", "math", load=Load(running=3), max_running=8),
        replica("c", "math", load=Load(running=5), max_running=8),
    ]

    assert decide({"math": 1.0}, fleet).chosen.replica == "b"


def test_what_the_router_itself_has_under_way_counts_before_the_replica_tells() -> None:
    fleet = [replica("a", "math", outstanding=2), replica("b", "math", outstanding=1)]

    assert decide({"math": 1.0}, fleet).chosen.replica == "b"


def test_equal_replicas_are_taken_in_a_fixed_order() -> None:
    assert decide({"math": 1.0}, [replica(name, "math") for name in "cab"]).chosen.replica == "a"


def test_the_report_counts_everybody_and_what_this_router_did_since_is_added() -> None:
    fleet = [
        replica("a", "math", load=Load(running=6), outstanding=4, untold=4, max_running=64),  # ten, of six routers
        replica("b", "math", load=Load(running=9), outstanding=9, untold=0, max_running=64),
        replica("c", "math", load=Load(running=12), outstanding=1, untold=-5, max_running=64),
    ]

    assert decide({"math": 1.0}, fleet).chosen.replica == "c"
    assert decide({"math": 1.0}, fleet[:2]).chosen.replica == "b"


def test_a_report_that_left_before_this_router_s_requests_arrived_does_not_hide_them() -> None:
    fleet = [replica("a", "math", outstanding=3, untold=0), replica("b", "math", load=Load(running=2))]

    assert decide({"math": 1.0}, fleet).chosen.replica == "b"


CHANCES = [n / 100 for n in range(100)]


def chosen_by_chance(fleet: list[Candidate], policy: Policy = POLICY) -> Counter[str]:
    return Counter(decide({"math": 1.0}, fleet, policy, chance=chance).chosen.replica for chance in CHANCES)


def test_chance_spreads_over_equal_replicas_evenly() -> None:
    fleet = [replica(name, "math", max_running=64) for name in "abcd"]

    assert chosen_by_chance(fleet) == {"a": 25, "b": 25, "c": 25, "d": 25}


def test_chance_takes_the_better_of_two_near_replicas() -> None:
    fleet = [replica(name, "math", load=Load(running=running), max_running=64) for running, name in enumerate("abcd")]

    chosen = chosen_by_chance(fleet)

    assert chosen["a"] > chosen["b"] > chosen["c"] > chosen["d"] == 0


def test_chance_does_not_choose_a_replica_that_is_far_from_the_best() -> None:
    full = Load(running=64, waiting=1)
    fleet = [*(replica(name, "math", load=full, max_running=64) for name in "abc"), replica("d", "math")]

    assert set(chosen_by_chance(fleet)) == {"d"}


def test_the_better_of_any_two_answers_where_the_load_of_the_first_is_old_news() -> None:
    policy = Policy(generalist="general", threshold=0.4, stale_after_s=2)
    busy = [
        replica(name, "math", load=Load(running=100 * n + 1), told_at=-3.0, max_running=64)
        for n, name in enumerate("abcd")
    ]

    assert set(chosen_by_chance(busy, policy)) == {"a", "b", "c"}  # of two, the better: the last is never
    fresh = [one._replace(told_at=-1.0) for one in busy]
    assert set(chosen_by_chance(fresh, policy)) == {"a"}
    idle = [one._replace(load=Load(step_time=waiting(n + 1).step_time)) for n, one in enumerate(busy)]
    assert set(chosen_by_chance(idle, policy)) == {"a"}  # silence says nothing of an engine that does nothing


# Conversations

HOMES = Policy(generalist="general", threshold=0.4, affinity_ms=250)
FOUR = [replica(name, "math", max_running=64) for name in "abcd"]


def test_a_conversation_stays_with_its_replica() -> None:
    for conversation in range(20):
        decisions = [decide({"math": 1.0}, FOUR, HOMES, conversation=conversation, chance=chance) for chance in CHANCES]
        assert len({each.chosen.replica for each in decisions}) == 1
        assert {each.affinity for each in decisions} == {KEPT}


def test_conversations_spread_over_the_replicas() -> None:
    homes = Counter(decide({"math": 1.0}, FOUR, HOMES, conversation=n * 7919).chosen.replica for n in range(400))

    assert all(60 < homes[name] < 140 for name in "abcd")


def test_a_conversation_gives_its_replica_up_under_load() -> None:
    home = decide({"math": 1.0}, FOUR, HOMES, conversation=5).chosen

    def fleet(wait_s: float) -> list[Candidate]:
        return [each._replace(load=waiting(wait_s if each == home else 0.02)) for each in FOUR]

    assert decide({"math": 1.0}, fleet(0.26), HOMES, conversation=5).affinity == KEPT
    left = decide({"math": 1.0}, fleet(0.28), HOMES, conversation=5)
    assert left.affinity == GIVEN_UP
    assert left.chosen.replica != home.replica
    assert "the conversation's own replica is too busy" in words_of(left, {}, HOMES)


def test_affinity_can_be_switched_off() -> None:
    assert decide({"math": 1.0}, FOUR, POLICY, conversation=5).affinity == HOMELESS


# Any fleet at all

scored = st.dictionaries(names, st.floats(0, 1), max_size=4) | st.dictionaries(names, st.floats(), max_size=4)
policies = st.builds(
    Policy,
    generalist=st.sampled_from(["general", "math"]),
    threshold=st.floats(0, 1),
    spill_ms_per_point=st.none() | st.floats(0, 1000),
    quality_floor=st.floats(0, 1),
    sibling_ms=st.floats(0, 1000),
    affinity_ms=st.floats(0, 1000),
    stale_after_s=st.floats(0.1, 10),
)
wishes = st.builds(
    Wish,
    pinned=st.just("") | names,
    precision=st.sampled_from([ANY, FULL, LOWER]),
    conversation=st.none() | st.integers(0, 2**64 - 1),
    excluded=st.frozensets(st.sampled_from(PLACES)),
    chance=st.none() | st.floats(0, 1, exclude_max=True),
    allowed=st.none(),  # see test_allowed.py
)


@given(scored, any_fleet, policies, wishes)
def test_whoever_is_chosen_can_answer_and_nobody_is_kept_waiting_for_nothing(
    scores: dict[str, float], fleet: list[Candidate], policy: Policy, wish: Wish
) -> None:
    able = [one for one in fleet if one.serving and one.endpoint not in wish.excluded]
    try:
        decision = select(scores, Roster(fleet), policy, wish)
    except (NotFound, Unavailable):
        wanted = wish.pinned or policy.generalist
        allowed = [one for one in able if wanted in one.experts and permits(wish, wanted in one.variants)]
        assert not allowed
        return
    chosen, expert = decision.chosen, decision.expert
    assert chosen in able
    assert expert in chosen.experts
    assert decision.variant == chosen.variants.get(expert, "")
    assert permits(wish, bool(decision.variant))
    assert decision.reason != RouteReason.ROUTE_REASON_UNSPECIFIED
    assert words_of(decision, scores, policy)

    peers = [one for one in able if expert in one.experts and (expert in one.variants) == bool(decision.variant)]
    least_s = min(expected_wait_s(one) for one in peers)
    if decision.affinity == KEPT:
        assert decision.wait_s <= least_s + policy.affinity_ms / 1000
    elif wish.chance is None:
        assert decision.wait_s == least_s
    elif not any(one.told_at is None or -one.told_at > policy.stale_after_s for one in peers):
        assert decision.wait_s <= least_s * NEAR

    if wish.pinned:
        assert expert == wish.pinned
        assert decision.reason in (PINNED, SIBLING)
    elif decision.reason == CONFIDENT:
        assert decision.score >= policy.threshold
    elif decision.reason == SPILLED:
        assert decision.score >= policy.quality_floor
        assert policy.spill_ms_per_point is not None
        lost_s = price_of_s(decision.best_score - decision.score, policy.spill_ms_per_point)
        assert decision.spilled_from_s is not None
        assert least_s + lost_s <= decision.spilled_from_s or decision.variant
    elif decision.reason in (UNSURE, UNSERVED):
        assert expert == policy.generalist or not any(
            policy.generalist in one.experts and permits(wish, policy.generalist in one.variants) for one in able
        )


def permits(wish: Wish, is_twin: bool) -> bool:
    return wish.precision == ANY or (wish.precision == LOWER) == is_twin


@given(scored, any_fleet, policies, wishes, st.sampled_from(PLACES), st.integers(1, 50))
def test_a_replica_that_gets_busier_is_not_chosen_for_it(
    scores: dict[str, float], fleet: list[Candidate], policy: Policy, wish: Wish, where: str, more: int
) -> None:
    wish = wish._replace(chance=None, conversation=None)
    busier = [
        one._replace(outstanding=one.outstanding + more, untold=one.untold + more) if one.endpoint == where else one
        for one in fleet
    ]
    try:
        before, after = (select(scores, Roster(each), policy, wish) for each in (fleet, busier))
    except MeshError:
        return
    assert before.chosen.endpoint == where or after.chosen.endpoint != where


# Domains and experts

domains = st.lists(st.sampled_from([*NAMES, "health"]), unique=True, min_size=1)


@given(domains, st.sets(names), st.sampled_from(["general", "cooking"]), st.data())
def test_folding_loses_nothing_and_agrees_with_the_evaluation_s(
    experts: list[str], served: set[str], generalist: str, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(experts), max_size=len(experts)).filter(any))
    total = sum(weights)
    scores = {expert: weight / total for expert, weight in zip(experts, weights, strict=True)}

    shares = fold(scores, served, generalist)

    assert sum(shares.values()) == pytest.approx(sum(scores.values()))
    serve = sorted({*served, generalist})
    [row] = strategy.fold(np.array([list(scores.values())], np.float32), experts, serve=serve, generalist=generalist)
    for expert, share in zip(serve, row, strict=True):
        assert shares.get(expert, 0.0) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("scores", [{}, {"math": math.nan, "law": 1.0}, {"math": 0.0}, {"math": -1.0}])
def test_what_is_no_distribution_folds_to_nothing(scores: dict[str, float]) -> None:
    assert fold(scores, ["math"], "general") == {}
