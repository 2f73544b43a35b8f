"""Selection for callers that may not ask every expert."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.errors import Forbidden, NotFound, Unavailable
from router_svc.choosing.candidate import Candidate
from router_svc.choosing.decision import Decision, Policy, Wish
from router_svc.choosing.explaining import words_of
from router_svc.choosing.options import options_of
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import select

POLICY = Policy(generalist="general", threshold=0.4, spill_ms_per_point=20, quality_floor=0.1)
SCORES = {"coding": 0.6, "math": 0.3, "health": 0.1}
EXPERTS = ("general", "coding", "math", "health")


def fleet(*experts: str, down: tuple[str, ...] = ()) -> Roster:
    """A replica of each expert."""
    return Roster(
        Candidate(name, f"10.0.0.{at}:1", frozenset({name}), name not in down, Load())
        for at, name in enumerate(experts or EXPERTS)
    )


def chosen(
    *allowed: str, roster: Roster | None = None, scores: dict[str, float] = SCORES, pinned: str = ""
) -> Decision:
    return select(scores, roster or fleet(), POLICY, Wish(pinned=pinned, allowed=frozenset(allowed)))


def test_the_best_expert_answers_a_caller_that_may_ask_it() -> None:
    assert chosen("coding", "general").expert == "coding"


def test_what_a_caller_may_not_ask_is_the_generalist_s() -> None:
    decision = chosen("general", "math")

    assert (decision.expert, decision.reason) == ("general", RouteReason.ROUTE_REASON_UNSERVED)
    assert words_of(decision, SCORES, POLICY) == "coding scored best with 0.60 and is not for this caller"


def test_without_the_generalist_the_best_of_those_allowed_answers() -> None:
    decision = chosen("math", "health")

    assert (decision.expert, decision.generalist) == ("math", "math")
    assert words_of(decision, SCORES, POLICY) == "coding scored best with 0.60 and is not for this caller"


def test_without_the_generalist_somebody_who_is_up_answers() -> None:
    decision = chosen("math", "health", roster=fleet(*EXPERTS, down=("math",)))

    assert decision.expert == "health"


@pytest.mark.parametrize("scores", [{}, {"coding": float("nan")}])
def test_a_prompt_without_scores_goes_to_somebody_who_is_allowed(scores: dict[str, float]) -> None:
    assert chosen("math", scores=scores).expert == "math"


def test_a_named_expert_that_is_not_allowed_is_refused_whether_it_exists_or_not() -> None:
    told = set()
    for name in ("coding", "nothing"):
        with pytest.raises(Forbidden) as refusal:
            chosen("math", pinned=name)
        told.add(str(refusal.value).replace(name, "X"))
    assert len(told) == 1


def test_a_named_expert_that_nobody_serves_is_told_with_those_allowed_alone() -> None:
    with pytest.raises(NotFound) as refusal:
        chosen("math", "health", "poetry", pinned="poetry")
    assert refusal.value.facts["known"] == "health, math"


def test_a_caller_whose_experts_nobody_serves_gets_no_answer() -> None:
    with pytest.raises(Unavailable):
        chosen("poetry")


def test_nothing_spills_to_an_expert_that_is_not_allowed() -> None:
    busy = Candidate("math", "10.0.0.1:1", frozenset({"math"}), True, Load(running=50, waiting=50), max_running=1)
    idle = Candidate("coding", "10.0.0.2:1", frozenset({"coding"}), True, Load())
    scores = {"math": 0.51, "coding": 0.49}

    assert chosen("math", "coding", roster=Roster([busy, idle]), scores=scores).expert == "coding"
    assert chosen("math", roster=Roster([busy, idle]), scores=scores).expert == "math"


@given(
    st.dictionaries(st.sampled_from([*EXPERTS, "poetry"]), st.floats(0, 1)),
    st.frozensets(st.sampled_from(EXPERTS)),
    st.frozensets(st.sampled_from([*EXPERTS, "poetry"])),
    st.frozensets(st.sampled_from(EXPERTS)),
)
def test_nobody_answers_or_is_shown_who_is_not_allowed(
    scores: dict[str, float], served: frozenset[str], allowed: frozenset[str], down: frozenset[str]
) -> None:
    roster, wish = fleet(*(sorted(served) or ("general",)), down=tuple(down)), Wish(allowed=allowed)
    try:
        decision = select(scores, roster, POLICY, wish)
    except Unavailable:
        up = (set(served) or {"general"}) - down
        assert not up & allowed or POLICY.generalist in allowed  # which nobody else can stand in for
        return
    assert decision.expert in allowed
    assert {option.expert for option in options_of(decision, scores, roster, POLICY, wish)} <= allowed
