"""From scores and the fleet's state to one replica: a pure function, with its reason.

It knows no gRPC and no time. What its decisions mean in words is `explaining`'s business.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from types import MappingProxyType
from typing import NamedTuple

from expertmesh.v1.generation_pb2 import Affinity, Precision, RouteReason
from mesh_wire.auth.callers import may_ask
from mesh_wire.errors import NotFound, Unavailable
from router_svc.choosing.allowed import narrowed
from router_svc.choosing.candidate import Candidate, held_per_place, is_measured, is_stale
from router_svc.choosing.roster import Entry, Roster, Shelf

# Read once: the generated type looks each name up anew.
PINNED, UNSURE = RouteReason.ROUTE_REASON_PINNED, RouteReason.ROUTE_REASON_UNSURE
UNSERVED, CONFIDENT = RouteReason.ROUTE_REASON_UNSERVED, RouteReason.ROUTE_REASON_CONFIDENT
SPILLED, SIBLING = RouteReason.ROUTE_REASON_SPILLED, RouteReason.ROUTE_REASON_SIBLING
ANY, FULL, LOWER = Precision.PRECISION_UNSPECIFIED, Precision.PRECISION_FULL, Precision.PRECISION_LOWER
HOMELESS, KEPT, GIVEN_UP = Affinity.AFFINITY_UNSPECIFIED, Affinity.AFFINITY_KEPT, Affinity.AFFINITY_GIVEN_UP
NEAR = 1.5  # replicas whose expected wait is at most so many times the least are as good as the best
NEAR_A_GUESS = 3.0  # likewise, where the least is that of an engine whose step time is assumed
POINTS = 100  # in a probability of 1


class Case(IntEnum):
    """By what the expert was chosen, before precision and load were looked at."""

    NAMED = auto()  # the caller named it
    UNREAD = auto()  # there are no scores
    NO_PROBABILITIES = auto()  # the scores are none
    DOWN = auto()  # the best expert is not up, or may not answer this request
    UNKNOWN = auto()  # nobody serves what scored best
    FORBIDDEN = auto()  # the caller may not ask what scored best
    DOUBTFUL = auto()  # the best score is below the threshold
    CLEAR = auto()  # it is not


REASONS = {
    Case.NAMED: PINNED,
    Case.UNREAD: UNSURE,
    Case.NO_PROBABILITIES: UNSURE,
    Case.DOWN: UNSERVED,
    Case.UNKNOWN: UNSERVED,
    Case.FORBIDDEN: UNSERVED,
    Case.DOUBTFUL: UNSURE,
    Case.CLEAR: CONFIDENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to decide: the router's settings, whose meaning `mesh_wire.settings` gives."""

    generalist: str
    threshold: float
    spill_ms_per_point: float | None = None
    quality_floor: float = 0.0
    sibling_ms: float = 0.0
    affinity_ms: float = 0.0
    stale_after_s: float = math.inf


class Wish(NamedTuple):
    """What one request asks of the decision, and the circumstances in which it asks."""

    pinned: str = ""  # the expert that the caller named
    precision: Precision = ANY
    conversation: int | None = None  # its hash: see `affinity`
    excluded: Collection[str] = ()  # endpoints that failed this request already
    chance: float | None = None  # a random number in [0, 1), where other routers may choose at once; None: they do not
    now: float = 0.0  # seconds of the clock of `Candidate.told_at`
    allowed: Collection[str] | None = None  # experts that the caller may ask; None: all
    queued: Mapping[str, float] = MappingProxyType({})  # expert -> seconds until its turn, before any replica has it


class Decision(NamedTuple):
    """Who answers, and why."""

    reason: RouteReason
    case: Case
    expert: str
    variant: str  # its lower precision; empty: the expert itself
    score: float
    chosen: Candidate
    wait_s: float  # that the chosen replica lets expect
    more: bool  # whether another replica of the expert could answer in its place, in either precision
    affinity: Affinity = HOMELESS
    best: str = ""  # the expert that scored best, where the scores were read
    best_score: float = 0.0
    spilled_from_s: float | None = None  # the wait that it would have been there; None: it was not left for another
    full_s: float | None = None  # the wait for the expert itself where its twin answers; None: nobody of it is up
    generalist: str = ""  # who stands in for it, where the caller may not ask the generalist


class Form(NamedTuple):
    """An expert in one precision, as one request could have it."""

    expert: str
    is_twin: bool
    shelf: Shelf
    price_s: float = 0.0  # what the lower precision is worth in waiting
    full_s: float | None = None  # of a twin: the least wait for the expert itself; None: it may not answer
    stands_alone: bool = True  # whether the other precision may not answer

    @property
    def cost_s(self) -> float:
        return self.shelf.least_s + self.price_s


NOTHING = Wish()


def select(scores: Mapping[str, float], roster: Roster, policy: Policy, wish: Wish = NOTHING) -> Decision:
    """Choose a replica for one prompt.

    First the expert. Cases, in order:
      1. PINNED: the caller named one: it answers.
      2. UNSURE: there are no scores, or they are no numbers: the generalist answers.
      3. UNSERVED: the best domain has no expert in the fleet, or none that is up: the generalist answers.
      4. UNSURE: the best score is below the threshold: the generalist answers.
      5. CONFIDENT: otherwise the best expert answers.
    Where the generalist is wanted and is not up, the best expert that is up answers, with the reason UNSERVED.

    What the caller may not ask counts as served by nobody, and is refused where the caller names it: see `allowed`.

    Then the precision. Everything is weighed in one currency, the expected wait and the price of what is given up:
      6. SIBLING: the expert's twin answers where that costs less, `sibling_ms` being the price, or where the expert
         itself is down, or where the caller wants the twin.
      7. SPILLED: in case 5, another expert that is up and scores at least `quality_floor` answers where it costs less,
         `spill_ms_per_point` for each hundredth of probability being the price; in either precision. What waits for
         its turn here, before any replica has it, counts as well.

    Then the replica: the conversation's own, unless it would keep the caller `affinity_ms` longer than another; else
    the one with the least expected wait, as `_drawn` has it.

    Args:
        scores: probability of each domain; empty when the prompt could not be read. What no expert of the fleet
            serves counts as the generalist's.

    Raises:
        Forbidden: the caller may not ask the expert that it names.
        NotFound: nobody in the fleet serves the named expert, or not in that precision.
        Unavailable: no replica that could answer is up.
    """
    if wish.pinned:
        may_ask(wish.pinned, wish.allowed)
        _check_known(wish, roster)
        score = scores.get(wish.pinned, 0.0)
        return _decide(Case.NAMED, _form(wish.pinned, roster, policy, wish), wish.pinned, score, policy, wish)
    if wish.allowed is None:
        return _scored(scores, roster.served, roster, policy, wish)
    served, generalist = narrowed(wish.allowed, scores, roster, policy.generalist)
    if generalist == policy.generalist:
        return _scored(scores, served, roster, policy, wish)
    decision = _scored(scores, served, roster, replace(policy, generalist=generalist), wish)
    return decision._replace(generalist=generalist)


def _scored(
    scores: Mapping[str, float], served: Collection[str], roster: Roster, policy: Policy, wish: Wish
) -> Decision:
    """Choose by the scores."""
    generalist = policy.generalist
    shares = fold(scores, served, generalist)
    if not shares:
        case = Case.NO_PROBABILITIES if scores else Case.UNREAD
        return _decide(case, _form(generalist, roster, policy, wish), generalist, 0.0, policy, wish)
    best, score = generalist, shares[generalist]
    for name, share in shares.items():
        if share > score or (share == score and best != generalist and name > best):
            best, score = name, share
    form = _form(best, roster, policy, wish)
    if form is None:
        case = Case.DOWN
    elif score < policy.threshold:
        case = Case.DOUBTFUL
    elif best == generalist and likeliest(scores) not in shares:
        case = Case.FORBIDDEN if likeliest(scores) in roster.served else Case.UNKNOWN
    else:
        return _clear(form, shares, score, roster, policy, wish)
    if best != generalist:
        form = _form(generalist, roster, policy, wish)
    if form is None:
        form = _any_form(shares, roster, policy, wish)
    answering = generalist if form is None else form.expert
    return _decide(case, form, answering, shares.get(answering, 0.0), policy, wish, best, score)


def fold(scores: Mapping[str, float], served: Collection[str], generalist: str) -> dict[str, float]:
    """Turn probabilities of domains into probabilities of the fleet's experts: what nobody serves is the generalist's.

    Returns:
        A probability for each domain that is served, and for the generalist; empty if `scores` is, or if they are no
        probabilities.
    """
    shares: dict[str, float] = {}
    rest = total = 0.0
    for name, score in scores.items():
        total += score
        if name in served or name == generalist:
            shares[name] = score
        else:
            rest += score
    if not 0 < total < math.inf:  # nothing, or no numbers
        return {}
    shares[generalist] = shares.get(generalist, 0.0) + rest
    return shares


def likeliest(scores: Mapping[str, float]) -> str:
    """Return the domain that scored best, whether anybody serves it or not."""
    return max(scores, key=lambda name: (scores[name], name))


def _check_known(wish: Wish, roster: Roster) -> None:
    known, lacks = roster.served, f"no expert is called {wish.pinned}"
    if wish.pinned in known and wish.precision == LOWER:
        known, lacks = roster.twins, f"{wish.pinned} has no twin in lower precision"
    if wish.pinned not in known:
        raise NotFound(
            lacks,
            reason="EXPERT_UNKNOWN",
            field="expert" if known is roster.served else "precision",
            expert=wish.pinned,
            known=", ".join(sorted(known if wish.allowed is None else set(known).intersection(wish.allowed))),
        )


def _form(expert: str, roster: Roster, policy: Policy, wish: Wish) -> Form | None:
    """Return an expert in the precision that costs less, or in the one that is up; None: nobody of it is up."""
    full = None if wish.precision == LOWER else roster.full.get(expert)
    twin = None if wish.precision == FULL else roster.lower.get(expert)
    if wish.excluded:
        full, twin = _without(full, wish.excluded), _without(twin, wish.excluded)
    if twin is None:
        return None if full is None else Form(expert, False, full)
    price_s = 0.0 if wish.precision == LOWER else policy.sibling_ms / 1000
    if full is None or twin.least_s + price_s < full.least_s:
        return Form(expert, True, twin, price_s, None if full is None else full.least_s, full is None)
    return Form(expert, False, full, stands_alone=False)


def _without(shelf: Shelf | None, excluded: Collection[str]) -> Shelf | None:
    if shelf is None:
        return None
    left = shelf.without(excluded)
    return left if left.rising else None


def _any_form(shares: Mapping[str, float], roster: Roster, policy: Policy, wish: Wish) -> Form | None:
    """Return the best expert that is up."""
    up = [form for name in shares if (form := _form(name, roster, policy, wish)) is not None]
    return max(up, key=lambda form: (shares[form.expert], form.expert), default=None)


def _clear(
    best: Form, shares: Mapping[str, float], score: float, roster: Roster, policy: Policy, wish: Wish
) -> Decision:
    """Decide for the best expert, or for one that costs less, its lower score included."""
    queued_s = wish.queued.get
    form, least_s, rate = best, best.cost_s + queued_s(best.expert, 0.0), policy.spill_ms_per_point
    if rate is not None and len(shares) > 1:
        for name, share in shares.items():
            if share < policy.quality_floor or name == best.expert:
                continue
            price_s = price_of_s(score - share, rate)
            if price_s >= least_s or (theirs := _form(name, roster, policy, wish)) is None:
                continue
            cost_s = theirs.cost_s + queued_s(name, 0.0) + price_s
            if cost_s < least_s or (cost_s == least_s and form is not best and name > form.expert):
                form, least_s = theirs, cost_s
    spilled_from_s = None if form is best else best.shelf.least_s + queued_s(best.expert, 0.0)
    name = form.expert
    return _decide(Case.CLEAR, form, name, shares[name], policy, wish, best.expert, score, spilled_from_s)


def price_of_s(lost: float, ms_per_point: float) -> float:
    """Return what a loss of probability is worth in waiting, in seconds."""
    return ms_per_point * POINTS * lost / 1000


def _decide(
    case: Case,
    form: Form | None,
    expert: str,
    score: float,
    policy: Policy,
    wish: Wish,
    best: str = "",
    best_score: float = 0.0,
    spilled_from_s: float | None = None,
) -> Decision:
    if form is None:
        raise Unavailable(f"no replica of {expert} is up", reason="NO_EXPERT", expert=expert, tokens_sent="0")
    shelf = form.shelf
    affinity, (wait_s, _, _, chosen) = _replica(shelf, policy, wish)
    reason, variant = REASONS[case], ""
    if reason is not CONFIDENT and reason is not PINNED and expert != policy.generalist:
        reason = UNSERVED  # the generalist was wanted
    if form.is_twin:
        reason, variant = SIBLING, chosen.variants[expert]
    if spilled_from_s is not None:
        reason = SPILLED
    return Decision(
        reason=reason,
        case=case,
        expert=expert,
        variant=variant,
        score=score,
        chosen=chosen,
        wait_s=wait_s,
        more=len(shelf.rising) > 1 or not form.stands_alone,
        affinity=affinity,
        best=best,
        best_score=best_score,
        spilled_from_s=spilled_from_s,
        full_s=form.full_s,
    )


def _replica(shelf: Shelf, policy: Policy, wish: Wish) -> tuple[Affinity, Entry]:
    """Return a conversation's own replica, or the one that is drawn."""
    if wish.conversation is None or not policy.affinity_ms:
        return HOMELESS, _drawn(shelf, policy, wish)
    home = shelf.home(wish.conversation)
    if home[0] <= shelf.least_s + policy.affinity_ms / 1000:
        return KEPT, home
    return GIVEN_UP, _drawn(shelf, policy, wish)


def _drawn(shelf: Shelf, policy: Policy, wish: Wish) -> Entry:
    """Return the replica with the least expected wait; with chance, the better of two that are near the best.

    Routers that see the same loads, a moment old, would all choose the same replica until they are told better. Two
    choices spread them nearly as evenly as full knowledge would, and cost a router that is alone next to nothing. When
    what is known of the first is old news, so is the order, and the two are drawn from all. An engine that has made no
    step yet is a guess: whoever of its equals made one sooner would get nothing, or all. So more are near it, and of
    two of which one is a guess, that with fewer requests for its places is the better.

    Source:
        Mitzenmacher, The power of two choices in randomized load balancing, 2001; with old information: How useful
        is old information?, 2000.
    """
    rising = shelf.rising
    if wish.chance is None or len(rising) < 2:
        return rising[0]
    if is_stale(rising[0][3], wish.now, policy.stale_after_s):
        near = len(rising)
    elif (near := shelf.up_to((NEAR if is_measured(rising[0][3]) else NEAR_A_GUESS) * rising[0][0])) < 2:
        return rising[0]
    first, rest = divmod(wish.chance * near, 1)
    one = int(first)
    other = int(rest * (near - 1))
    other += other >= one  # the one is not drawn again
    one_wait, one_held, _, first_drawn = rising[one]
    other_wait, other_held, _, second_drawn = rising[other]
    if not (is_measured(first_drawn) and is_measured(second_drawn)):
        one_wait, other_wait = held_per_place(first_drawn), held_per_place(second_drawn)
    return rising[other if (other_wait, other_held) < (one_wait, one_held) else one]
