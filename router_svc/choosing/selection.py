"""From scores and the fleet's state to one replica: a pure function, with its reason.

It knows no gRPC and no time. What its decisions mean in words is `explaining`'s business.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from mesh_wire.auth.callers import may_ask
from mesh_wire.errors import NotFound, Unavailable
from router_svc.choosing.allowed import narrowed
from router_svc.choosing.decision import (
    CONFIDENT,
    FULL,
    LOWER,
    NOTHING,
    PINNED,
    REASONS,
    SIBLING,
    SPILLED,
    UNSERVED,
    Case,
    Decision,
    Policy,
    Wish,
)
from router_svc.choosing.drawing import replica_of
from router_svc.choosing.roster import Roster, Shelf

POINTS = 100  # in a probability of 1


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
    the one with the least expected wait, as `drawing` has it.

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
    affinity, (wait_s, _, _, chosen) = replica_of(shelf, policy, wish)
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
