"""What a decision was made from, to the wire and back: so that it can be made again elsewhere."""

import math
from collections.abc import Iterable

from expertmesh.v1.expert_pb2 import ServedExpert
from expertmesh.v1.router_pb2 import ReplicaWeighed, RouteGrounds, RoutePolicy
from mesh_wire.deadlines import duration, seconds
from router_svc.choosing.candidate import Candidate, expected_wait_s, is_stale
from router_svc.choosing.decision import Policy, Wish
from router_svc.choosing.roster import Roster


def grounds_of(roster: Roster, policy: Policy, wish: Wish) -> RouteGrounds:
    """Return all that a decision is made from, the scores apart."""
    grounds = RouteGrounds(
        policy=RoutePolicy(
            generalist=policy.generalist,
            threshold=policy.threshold,
            spill_ms_per_point=policy.spill_ms_per_point,
            quality_floor=policy.quality_floor,
            sibling_ms=policy.sibling_ms,
            affinity_ms=policy.affinity_ms,
            stale_after_s=policy.stale_after_s,
        ),
        chance=wish.chance,
        pinned=wish.pinned,
        precision=wish.precision,
        conversation=wish.conversation,
        excluded=wish.excluded,
    )
    known = sorted(roster.known, key=lambda candidate: candidate.endpoint)
    grounds.fleet.extend(weighed(candidate, policy, wish.now) for candidate in known)
    return grounds


def weighed(candidate: Candidate, policy: Policy, now: float) -> ReplicaWeighed:
    """Return a replica as a decision sees it.

    Args:
        now: seconds of the clock of `told_at`.
    """
    told_at = candidate.told_at
    return ReplicaWeighed(
        replica=candidate.replica,
        endpoint=candidate.endpoint,
        expected_wait=duration(expected_wait_s(candidate)),
        load=candidate.load,
        outstanding=candidate.outstanding,
        untold=candidate.untold,
        load_age=None if told_at is None else duration(now - told_at),
        stale=is_stale(candidate, now, policy.stale_after_s),
        serving=candidate.serving,
        max_running=candidate.max_running,
        experts=[
            ServedExpert(name=name, variant=candidate.variants.get(name, "")) for name in sorted(candidate.experts)
        ],
    )


def read_grounds(grounds: RouteGrounds) -> tuple[Roster, Policy, Wish]:
    """Return what a decision was made from."""
    settings = grounds.policy
    policy = Policy(
        generalist=settings.generalist,
        threshold=settings.threshold,
        spill_ms_per_point=settings.spill_ms_per_point if settings.HasField("spill_ms_per_point") else None,
        quality_floor=settings.quality_floor,
        sibling_ms=settings.sibling_ms,
        affinity_ms=settings.affinity_ms,
        stale_after_s=settings.stale_after_s,
    )
    wish = Wish(
        pinned=grounds.pinned,
        precision=grounds.precision,
        conversation=grounds.conversation if grounds.HasField("conversation") else None,
        excluded=frozenset(grounds.excluded),
        chance=grounds.chance if grounds.HasField("chance") else None,
        now=0.0,
    )
    return Roster(_candidates(grounds.fleet, settings.stale_after_s)), policy, wish


def _candidates(fleet: Iterable[ReplicaWeighed], stale_after_s: float) -> Iterable[Candidate]:
    for each in fleet:
        yield Candidate(
            replica=each.replica,
            endpoint=each.endpoint,
            experts=frozenset(expert.name for expert in each.experts),
            serving=each.serving,
            load=each.load,
            variants={expert.name: expert.variant for expert in each.experts if expert.variant},
            outstanding=each.outstanding,
            untold=each.untold,
            max_running=each.max_running,
            told_at=_told_at(each, stale_after_s),
        )


def _told_at(replica: ReplicaWeighed, stale_after_s: float) -> float | None:
    """Return when a load was told, as seconds before now: on the side of staleness on which it was seen."""
    if not replica.HasField("load_age"):
        return None
    age_s = seconds(replica.load_age)
    if replica.stale:
        return -max(age_s, math.nextafter(stale_after_s, math.inf))
    return -min(age_s, stale_after_s) if age_s > stale_after_s else -age_s
