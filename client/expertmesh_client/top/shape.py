"""One look as a JSON object."""

from typing import Any

from expertmesh.v1.router_pb2 import Expert, ListExpertsResponse
from expertmesh_client.cli.shapes import load_shape
from expertmesh_client.top.frame import replicas_of
from expertmesh_client.top.looking import Look
from mesh_wire.deadlines import seconds
from mesh_wire.words import reason_word


def look_shape(look: Look) -> dict[str, Any]:
    """Return an object of `top --json`. Times are seconds; what is not known is null."""
    fleet = look.fleet if look.fleet is not None else ListExpertsResponse()
    return {
        "target": look.target,
        "trouble": look.trouble or None,
        "strategy": fleet.strategy,
        "generation": fleet.generation,
        "worker": fleet.process.worker or None,
        "workers": fleet.process.workers or None,
        "window_s": seconds(fleet.process.window),
        "refused": fleet.process.refused,
        "experts": [_expert_shape(expert) for expert in fleet.experts],
        "replicas": [
            {
                "name": seen.replica.name,
                "endpoint": seen.replica.endpoint,
                "serving": seen.replica.serving,
                "serves": seen.serves,
                "load": load_shape(seen.replica.load),
                "expected_wait_s": (
                    seconds(seen.replica.expected_wait) if seen.replica.HasField("expected_wait") else None
                ),
                "outstanding": seen.replica.outstanding,
            }
            for seen in replicas_of(fleet)
        ],
        "unreachable": [{"endpoint": gone.endpoint, "reason": gone.reason} for gone in fleet.unreachable],
    }


def _expert_shape(expert: Expert) -> dict[str, Any]:
    activity = expert.activity
    return {
        "name": expert.name,
        "available": expert.available,
        "routes_per_s": activity.routes_per_second,
        "reasons": {reason_word(each.reason): each.routes for each in activity.reasons},
        "first_tokens": activity.first_tokens,
        "first_token_p50_s": seconds(activity.first_token_p50) if activity.HasField("first_token_p50") else None,
        "first_token_p95_s": seconds(activity.first_token_p95) if activity.HasField("first_token_p95") else None,
    }
