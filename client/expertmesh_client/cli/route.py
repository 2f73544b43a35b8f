"""`expertmesh route`: what the router thinks."""

import json
import sys
from typing import TYPE_CHECKING, Any

from expertmesh_client.cli import options
from expertmesh_client.cli.fleet import asked

if TYPE_CHECKING:
    from expertmesh.v1.router_pb2 import ReplicaWeighed, RouteResponse


def route(
    prompt: options.Prompt,
    target: options.Target = options.DEFAULT_TARGET,
    expert: options.Expert = "",
    precision: options.Precision = None,
    as_json: options.Json = False,
    timeout: options.Timeout = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show who would answer a prompt, and why, without asking.

    What --json prints can be decided again offline: python -m router_svc.replay.
    """
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    about: dict[str, Any] = {"expert": expert, "precision": precision, "timeout_s": timeout}
    response = asked(target, encrypted, options.token_of(token_file), lambda client: client.route(text, **about))
    if as_json:
        print(json.dumps(_shape(response), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(response)))


def _shape(response: "RouteResponse") -> dict[str, Any]:
    """Return the object of `route --json`; under `response`, the router's whole answer but for its ticket."""
    from google.protobuf.json_format import MessageToDict

    from expertmesh_client.cli.shapes import load_shape, timings_shape
    from mesh_wire.deadlines import seconds
    from mesh_wire.words import affinity_word, reason_word

    route = response.route
    shape = {
        "expert": route.expert,
        "variant": route.variant,
        "replica": route.replica,
        "endpoint": response.endpoint,
        "reason": reason_word(route.reason),
        "explanation": route.explanation,
        "spilled_from": route.spilled_from,
        "affinity": affinity_word(route.affinity) if route.affinity else "",
        "score": route.score,
        "scores": {scored.expert: scored.score for scored in response.scores},
        "threshold": response.threshold,
        "margin": response.margin,
        "strategy": route.strategy,
        "fallback": route.fallback,
        "artefact": route.artefact,
        "generation": route.generation,
        "options": [
            {
                "expert": option.expert,
                "variant": option.variant,
                "score": option.score,
                "expected_wait_s": seconds(option.expected_wait) if option.HasField("expected_wait") else None,
                "price_s": seconds(option.price) if option.HasField("price") else None,
                "verdict": option.verdict,
            }
            for option in response.options
        ],
        "replicas": [
            {
                "replica": weighed.replica,
                "endpoint": weighed.endpoint,
                "expected_wait_s": seconds(weighed.expected_wait),
                "load": load_shape(weighed.load),
                "load_age_s": seconds(weighed.load_age) if weighed.HasField("load_age") else None,
                "stale": weighed.stale,
                "outstanding": weighed.outstanding,
                "untold": weighed.untold,
            }
            for weighed in response.replicas
        ],
        "timings": timings_shape(response.timings),
    }
    response.ClearField("ticket")
    return shape | {"response": MessageToDict(response, preserving_proto_field_name=True)}


def _lines(response: "RouteResponse") -> list[str]:
    """Return a decision for people: who and why, the scores as bars, who else there was, and the replicas' load."""
    from expertmesh_client.cli.shapes import columns
    from mesh_wire.words import reason_word

    route = response.route
    form = f"{route.expert} ({route.variant})" if route.variant else route.expert
    lines = [
        f"{form} on {route.replica} ({response.endpoint})",
        f"{reason_word(route.reason)}: {route.explanation}" if route.explanation else reason_word(route.reason),
    ]
    if response.scores:
        scored = [f"strategy {route.strategy}", f"threshold {response.threshold:.2f}", f"margin {response.margin:.2f}"]
        scored += [f"in place of the one intended: {route.fallback}"] if route.fallback else []
        scored += [f"artefact {route.artefact[:12]}"] if route.artefact else []
        scored += [f"generation {route.generation}"] if route.generation else []
        lines.append(", ".join(scored))
        bars = [(f"  {one.expert}", f"{one.score:.3f}", "█" * round(one.score * 40)) for one in response.scores]
        lines += columns(bars)
    if response.options:
        stood = [(f"  {option.expert} {option.variant}".rstrip(), option.verdict) for option in response.options]
        lines += ["", *columns(stood)]
    if response.replicas:
        head = ("  REPLICA", "EXPECTED", "RUN", "WAIT", "QUEUED", "UNTOLD", "STEP", "TOLD")
        lines += ["", *columns([head, *(_cells(each) for each in response.replicas)])]
    return lines


def _cells(replica: "ReplicaWeighed") -> tuple[str, ...]:
    """Return what a replica's wait was expected from; QUEUED counts tokens of prompts, TOLD is the load's age."""
    from mesh_wire.deadlines import seconds

    load = replica.load
    age = f"{seconds(replica.load_age) * 1000:.0f} ms ago" if replica.HasField("load_age") else "never"
    return (
        f"  {replica.replica}",
        f"{seconds(replica.expected_wait) * 1000:.0f} ms",
        str(load.running),
        str(load.waiting),
        str(load.queued_prompt_tokens),
        f"{replica.untold:+d}",
        f"{seconds(load.step_time) * 1000:.1f} ms" if load.HasField("step_time") else "-",
        f"{age}, stale" if replica.stale else age,
    )
