"""Decisions as callers, traces and people see them."""

from collections.abc import Mapping

from expertmesh.v1.generation_pb2 import ExpertScore, RouteChosen
from expertmesh.v1.router_pb2 import ReplicaWeighed, RouteResponse
from mesh_wire.deadlines import duration
from router_svc.selection import Decision, Policy, expected_wait_s
from router_svc.strategy import Strategy

RUNNERS_UP = 5


def ranked(scores: Mapping[str, float]) -> list[ExpertScore]:
    """Return scores in falling order."""
    falling = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    return [ExpertScore(expert=expert, score=score) for expert, score in falling]


def chosen_of(decision: Decision, scores: Mapping[str, float], strategy: Strategy, attempt: int) -> RouteChosen:
    """Return who answers, and why."""
    others = [one for one in ranked(scores) if one.expert != decision.expert]
    return RouteChosen(
        expert=decision.expert,
        replica=decision.chosen.replica,
        score=decision.score,
        runners_up=others[:RUNNERS_UP],
        strategy=strategy.name if scores else "",
        reason=decision.reason,
        artefact=strategy.generation if scores else "",
        explanation=decision.explanation,
        attempt=attempt,
    )


def explained(decision: Decision, chosen: RouteChosen, scores: Mapping[str, float], policy: Policy) -> RouteResponse:
    """Return a decision with all its grounds."""
    falling = ranked(scores)
    return RouteResponse(
        route=chosen,
        endpoint=decision.chosen.endpoint,
        scores=falling,
        threshold=policy.threshold,
        margin=falling[0].score - falling[1].score if len(falling) > 1 else 0.0,
        replicas=[
            ReplicaWeighed(
                replica=candidate.replica,
                endpoint=candidate.endpoint,
                expected_wait=duration(expected_wait_s(candidate)),
                load=candidate.load,
                outstanding=candidate.outstanding,
            )
            for candidate in decision.weighed
        ],
    )
