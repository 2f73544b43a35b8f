"""The experts that could have answered, and how each stood: what `Route` shows beside the decision."""

from collections.abc import Collection, Mapping

from expertmesh.v1.router_pb2 import RouteOption
from mesh_wire.deadlines import duration
from router_svc.choosing.allowed import narrowed
from router_svc.choosing.decision import FULL, LOWER, Case, Decision, Policy, Wish
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import fold, price_of_s


def options_of(
    decision: Decision, scores: Mapping[str, float], roster: Roster, policy: Policy, wish: Wish
) -> list[RouteOption]:
    """Return the experts that were scored, or the one that was named, in each precision that the fleet has: the chosen
    one first, then by what they would have cost, then those that were no alternative."""
    shares = {decision.expert: decision.score}
    if decision.case is not Case.NAMED:
        served: Collection[str] = roster.served
        generalist = policy.generalist
        if wish.allowed is not None:
            served, generalist = narrowed(wish.allowed, scores, roster, generalist)
        shares |= fold(scores, served, generalist)
    found: list[tuple[tuple[bool, bool, int, float, str], RouteOption]] = []
    for expert, share in shares.items():
        for is_twin in (False, True):
            replicas = roster.twins.get(expert, 0)
            if not (replicas if is_twin else roster.served.get(expert, 0) - replicas):
                continue
            chosen = expert == decision.expert and is_twin == bool(decision.variant)
            one = _option(decision, expert, share, is_twin=is_twin, roster=roster, policy=policy, wish=wish)
            if chosen:
                one.verdict = "chosen"
            cost_ns = one.expected_wait.ToNanoseconds() + one.price.ToNanoseconds()
            found.append(((not chosen, not one.HasField("price"), cost_ns, -share, expert), one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _option(
    decision: Decision, expert: str, share: float, *, is_twin: bool, roster: Roster, policy: Policy, wish: Wish
) -> RouteOption:
    """Return an expert in one precision: its wait where it is up, its price where it was an alternative."""
    option = RouteOption(expert=expert, score=share)
    if is_twin:
        option.variant = min(
            variant for candidate in roster.known if (variant := candidate.variants.get(expert)) is not None
        )
    shelf = (roster.lower if is_twin else roster.full).get(expert)
    if shelf is not None and wish.excluded:
        shelf = shelf.without(wish.excluded)
    if shelf is None or not shelf.rising:
        option.verdict = "is down"
        return option
    option.expected_wait.CopyFrom(duration(shelf.least_s))
    waits = f"would wait {shelf.least_s * 1000:.0f} ms"
    if wish.precision == (FULL if is_twin else LOWER):
        option.verdict = f"{waits}; the caller does not want this precision"
        return option
    loss_s, why_not = _loss_s(decision, expert, share, policy)
    if loss_s is None:
        option.verdict = f"{waits}; {why_not}"
        return option
    precision_s = policy.sibling_ms / 1000 if is_twin and wish.precision != LOWER else 0.0
    option.price.CopyFrom(duration(loss_s + precision_s))
    prices = [f"its lower score costs {loss_s * 1000:.0f} ms"] if loss_s else []
    prices += [f"its lower precision costs {precision_s * 1000:.0f} ms"] if precision_s else []
    option.verdict = "; ".join([waits, *prices])
    return option


def _loss_s(decision: Decision, expert: str, share: float, policy: Policy) -> tuple[float | None, str]:
    """Return what the expert's lower score is worth in waiting, or None and why it was no alternative."""
    if expert == (decision.best if decision.case is Case.CLEAR else decision.expert):
        return 0.0, ""
    if decision.case is not Case.CLEAR:
        return None, "another rule decided"
    if policy.spill_ms_per_point is None:
        return None, "nothing spills"
    if share < policy.quality_floor:
        return None, f"scores below the floor of {policy.quality_floor:g}"
    return price_of_s(decision.best_score - share, policy.spill_ms_per_point), ""
