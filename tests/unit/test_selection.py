"""From scores and the fleet's state to one replica."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.deadlines import duration
from mesh_wire.errors import NotFound, Unavailable
from router_svc import strategy
from router_svc.selection import NEAR, UNMEASURED_STEP_S, Candidate, Policy, expected_wait_s, fold, select

POLICY = Policy(generalist="general", threshold=0.4)
CONFIDENT, UNSURE = RouteReason.ROUTE_REASON_CONFIDENT, RouteReason.ROUTE_REASON_UNSURE
UNSERVED, PINNED = RouteReason.ROUTE_REASON_UNSERVED, RouteReason.ROUTE_REASON_PINNED


def replica(name: str, *experts: str, **more: Any) -> Candidate:
    return Candidate(
        **{"replica": name, "endpoint": f"{name}:1", "experts": frozenset(experts), "serving": True, "load": Load()}
        | more
    )


FLEET = [replica("a", "general", "math"), replica("b", "coding")]


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
    ],
)
def test_scores_decide(scores: dict[str, float], expert: str, score: float, reason: RouteReason) -> None:
    decision = select(scores, FLEET, POLICY)

    assert (decision.expert, decision.reason) == (expert, reason)
    assert decision.score == pytest.approx(score)
    assert decision.explanation


def test_a_named_expert_answers_whatever_the_scores() -> None:
    decision = select({"math": 1.0}, FLEET, POLICY, pinned="coding")

    assert (decision.expert, decision.chosen.replica, decision.reason, decision.score) == ("coding", "b", PINNED, 0)


def test_a_named_expert_that_nobody_serves_is_not_found() -> None:
    with pytest.raises(NotFound) as missing:
        select({}, FLEET, POLICY, pinned="law")

    assert (missing.value.reason, missing.value.field) == ("EXPERT_UNKNOWN", "expert")
    assert missing.value.facts == {"expert": "law", "known": "coding, general, math"}


def test_a_named_expert_that_is_down_is_not_replaced() -> None:
    fleet = [replica("a", "general"), replica("b", "coding", serving=False)]

    with pytest.raises(Unavailable) as nobody:
        select({}, fleet, POLICY, pinned="coding")

    assert nobody.value.reason == "NO_EXPERT"


def test_the_generalist_answers_for_an_expert_that_is_down() -> None:
    fleet = [replica("a", "general"), replica("b", "math", serving=False)]

    decision = select({"math": 0.9, "general": 0.1}, fleet, POLICY)

    assert (decision.expert, decision.reason) == ("general", UNSERVED)
    assert "math" in decision.explanation
    assert "down" in decision.explanation


def test_the_generalist_answers_for_an_expert_whose_replicas_all_failed_this_request() -> None:
    decision = select({"coding": 0.9, "general": 0.1}, FLEET, POLICY, excluded=["b:1"])

    assert (decision.expert, decision.reason) == ("general", UNSERVED)


@pytest.mark.parametrize("fleet", [[], [replica("a", "general", serving=False)], [replica("b", "math")]])
def test_nobody_answers_when_the_generalist_is_wanted_and_away(fleet: list[Candidate]) -> None:
    with pytest.raises(Unavailable) as nobody:
        select({"law": 1.0}, fleet, POLICY)

    assert (nobody.value.reason, nobody.value.facts["tokens_sent"]) == ("NO_EXPERT", "0")


def test_the_least_expected_wait_wins_among_replicas() -> None:
    fleet = [
        replica("a", "math", load=Load(running=8, waiting=4), max_running=8),
        replica("b", "math", load=Load(running=3), max_running=8),
        replica("c", "math", load=Load(running=5), max_running=8),
    ]

    decision = select({"math": 1.0}, fleet, POLICY)

    assert [one.replica for one in decision.weighed] == ["b", "c", "a"]


def test_what_the_router_itself_has_under_way_counts_before_the_replica_tells() -> None:
    fleet = [replica("a", "math", outstanding=2), replica("b", "math", outstanding=1)]

    assert select({"math": 1.0}, fleet, POLICY).chosen.replica == "b"


def test_equal_replicas_are_taken_in_a_fixed_order() -> None:
    fleet = [replica(name, "math") for name in "cab"]

    assert [one.replica for one in select({"math": 1.0}, fleet, POLICY).weighed] == ["a", "b", "c"]


def test_the_report_counts_everybody_and_what_this_router_did_since_is_added() -> None:
    fleet = [
        replica("a", "math", load=Load(running=6), outstanding=4, untold=4, max_running=64),  # ten, of six routers
        replica("b", "math", load=Load(running=9), outstanding=9, untold=0, max_running=64),
        replica("c", "math", load=Load(running=12), outstanding=1, untold=-5, max_running=64),
    ]

    assert [one.replica for one in select({"math": 1.0}, fleet, POLICY).weighed] == ["c", "b", "a"]


def test_a_report_that_left_before_this_router_s_requests_arrived_does_not_hide_them() -> None:
    fleet = [replica("a", "math", outstanding=3, untold=0), replica("b", "math", load=Load(running=2))]

    assert select({"math": 1.0}, fleet, POLICY).chosen.replica == "b"


CHANCES = [n / 100 for n in range(100)]


def test_chance_spreads_over_equal_replicas_evenly() -> None:
    fleet = [replica(name, "math", max_running=64) for name in "abcd"]

    chosen = Counter(select({"math": 1.0}, fleet, POLICY, chance=chance).chosen.replica for chance in CHANCES)

    assert chosen == {"a": 25, "b": 25, "c": 25, "d": 25}


def test_chance_takes_the_better_of_two_near_replicas() -> None:
    fleet = [replica(name, "math", load=Load(running=running), max_running=64) for running, name in enumerate("abcd")]

    chosen = Counter(select({"math": 1.0}, fleet, POLICY, chance=chance).chosen.replica for chance in CHANCES)

    assert chosen["a"] > chosen["b"] > chosen["c"] > chosen["d"] == 0


def test_chance_does_not_choose_a_replica_that_is_far_from_the_best() -> None:
    full = Load(running=64, waiting=1)
    fleet = [*(replica(name, "math", load=full, max_running=64) for name in "abc"), replica("d", "math")]

    decisions = [select({"math": 1.0}, fleet, POLICY, chance=chance) for chance in CHANCES]

    assert {decision.chosen.replica for decision in decisions} == {"d"}
    assert {len(decision.weighed) for decision in decisions} == {4}


# Any fleet at all

names = st.sampled_from(["general", "math", "coding", "law"])
loads = st.builds(
    Load,
    running=st.integers(0, 200),
    waiting=st.integers(0, 200),
    step_time=st.none() | st.builds(duration, st.floats(0, 1)),
)
candidates = st.builds(
    Candidate,
    replica=st.text(max_size=3),
    endpoint=st.sampled_from([f"10.0.0.{n}:1" for n in range(6)]),
    experts=st.frozensets(names, max_size=3),
    serving=st.booleans(),
    load=loads,
    outstanding=st.integers(0, 50),
    untold=st.integers(-50, 50),
    max_running=st.integers(0, 64),
)
fleets = st.lists(candidates, max_size=6, unique_by=lambda one: one.endpoint)
scored = st.dictionaries(names, st.floats(0, 1), max_size=4)
policies = st.builds(Policy, generalist=st.sampled_from(["general", "math"]), threshold=st.floats(0, 1))


@given(
    scored,
    fleets,
    policies,
    st.just("") | names,
    st.sets(st.sampled_from([f"10.0.0.{n}:1" for n in range(6)])),
    st.none() | st.floats(0, 1, exclude_max=True),
)
def test_whoever_is_chosen_can_answer(
    scores: dict[str, float],
    fleet: list[Candidate],
    policy: Policy,
    pinned: str,
    excluded: set[str],
    chance: float | None,
) -> None:
    able = [one for one in fleet if one.serving and one.endpoint not in excluded]
    try:
        decision = select(scores, fleet, policy, pinned=pinned, excluded=excluded, chance=chance)
    except (NotFound, Unavailable):
        decision = None
    if decision is None:
        assert not any((pinned or policy.generalist) in one.experts for one in able)
        return
    assert decision.expert in decision.chosen.experts
    assert all(one in able and decision.expert in one.experts for one in decision.weighed)
    assert set(map(id, decision.weighed)) == {id(one) for one in able if decision.expert in one.experts}
    waits = [expected_wait_s(one) for one in decision.weighed]
    assert waits[1:] == sorted(waits[1:])
    assert waits[0] <= min(waits) * (1 if chance is None else NEAR)
    assert decision.reason != RouteReason.ROUTE_REASON_UNSPECIFIED
    if pinned:
        assert (decision.expert, decision.reason) == (pinned, PINNED)
    elif decision.reason == CONFIDENT:
        assert decision.score >= policy.threshold
    else:
        assert decision.expert == policy.generalist or not any(policy.generalist in one.experts for one in able)


@given(candidates, st.integers(0, 20), st.sampled_from(["running", "waiting", "outstanding"]))
def test_more_load_never_means_less_wait(one: Candidate, more: int, where: str) -> None:
    load = Load()
    load.CopyFrom(one.load)
    outstanding = one.outstanding
    if where == "outstanding":
        outstanding += more
    else:
        setattr(load, where, getattr(load, where) + more)
    busier = Candidate(
        replica=one.replica,
        endpoint=one.endpoint,
        experts=one.experts,
        serving=one.serving,
        load=load,
        outstanding=outstanding,
        untold=one.untold,
        max_running=one.max_running,
    )

    assert expected_wait_s(busier) >= expected_wait_s(one) >= 0


def test_an_idle_engine_is_expected_to_answer_in_a_step() -> None:
    assert expected_wait_s(replica("a")) == UNMEASURED_STEP_S
    assert expected_wait_s(replica("a", load=Load(step_time=duration(0.01)))) == pytest.approx(0.01)


# Domains and experts

domains = st.lists(st.sampled_from(["general", "math", "coding", "law", "health"]), unique=True, min_size=1)


@given(domains, st.sets(names), st.sampled_from(["general", "cooking"]), st.data())
def test_folding_loses_nothing_and_agrees_with_the_evaluation_s(
    experts: list[str], served: set[str], generalist: str, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(experts), max_size=len(experts)))
    total = sum(weights) or 1
    scores = {expert: weight / total for expert, weight in zip(experts, weights, strict=True)}

    shares = fold(scores, served, generalist)

    assert sum(shares.values()) == pytest.approx(sum(scores.values()))
    serve = sorted({*served, generalist})
    [row] = strategy.fold(np.array([list(scores.values())], np.float32), experts, serve=serve, generalist=generalist)
    for expert, share in zip(serve, row, strict=True):
        assert shares.get(expert, 0.0) == pytest.approx(share, abs=1e-6)


def test_nothing_scored_folds_to_nothing() -> None:
    assert fold({}, ["math"], "general") == {}


def test_the_best_expert_answers_where_the_generalist_is_wanted_and_down() -> None:
    fleet = [replica("a", "general", serving=False), replica("b", "coding"), replica("c", "math")]

    decision = select({"math": 0.3, "coding": 0.2, "law": 0.5}, fleet, POLICY)

    assert (decision.expert, decision.reason) == ("math", UNSERVED)
    assert "general is down" in decision.explanation
