"""What the commands print: JSON objects, and lines for people."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import Finished, RouteChosen, StageTimings
from expertmesh.v1.router_pb2 import ListExpertsResponse, Replica
from mesh_wire.deadlines import seconds
from mesh_wire.words import finish_word, reason_word

if TYPE_CHECKING:
    from google.protobuf.message import Message


def answer_shape(text: str, route: RouteChosen | None, finished: Finished | None, expert: str) -> dict[str, Any]:
    """Return the object of `ask --json`. What only a router knows is null where an expert was asked directly."""
    return {
        "text": text,
        "expert": route.expert if route else expert or None,
        "replica": route.replica if route else None,
        "reason": reason_word(route.reason) if route else None,
        "score": route.score if route else None,
        "usage": _fields(finished.usage) if finished else None,
        "timings": timings_shape(finished.timings) if finished else {},
        "finish_reason": finish_word(finished.reason) if finished else None,
        "request_id": finished.request_id if finished else None,
    }


def fleet_shape(fleet: ListExpertsResponse) -> dict[str, Any]:
    """Return the object of `experts --json`."""
    return {
        "generalist": fleet.generalist,
        "strategy": fleet.strategy,
        "artefact": fleet.artefact,
        "generation": fleet.generation,
        "strategy_trouble": fleet.strategy_trouble,
        "not_taken": list(fleet.not_taken),
        "left_for_restart": list(fleet.left_for_restart),
        "drift": {
            "verdict": fleet.drift.verdict,
            "index": fleet.drift.index if fleet.drift.HasField("index") else None,
            "prompts": fleet.drift.prompts,
        },
        "experts": [
            {
                "name": expert.name,
                "available": expert.available,
                "replicas": [_replica_shape(replica) for replica in expert.replicas],
            }
            for expert in fleet.experts
        ],
        "unreachable": [{"endpoint": gone.endpoint, "reason": gone.reason} for gone in fleet.unreachable],
    }


def timings_shape(timings: StageTimings) -> dict[str, float]:
    """Return seconds by stage, of the stages that happened."""
    return {field.name: seconds(took) for field, took in timings.ListFields()}


def load_shape(load: Load) -> dict[str, Any]:
    """Return an engine's load; times are seconds, null before the first was measured."""
    times = ("step_time", "prompt_token_time", "place_time")
    return _fields(load) | {name: seconds(getattr(load, name)) if load.HasField(name) else None for name in times}


def route_line(route: RouteChosen) -> str:
    """Return who answers and why, in one line."""
    score = f" {route.score:.2f}" if route.strategy else ""
    again = f", attempt {route.attempt}" if route.attempt > 1 else ""
    form = f"{route.expert} {route.variant}" if route.variant else route.expert
    spilled = f" from {route.spilled_from}" if route.spilled_from else ""
    return f"[{form} on {route.replica}: {reason_word(route.reason)}{spilled}{score}{again}]"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with their cells under each other."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def fleet_lines(fleet: ListExpertsResponse) -> Iterable[str]:
    """Return the fleet as a table, then what is out of reach."""
    rows: list[tuple[str, ...]] = [("EXPERT", "REPLICA", "ENDPOINT", "STATE", "RUN", "WAIT", "KV", "TOK/S")]
    for expert in fleet.experts:
        name = f"{expert.name} *" if expert.name == fleet.generalist else expert.name
        rows += [(_form(name, expert.name, each), *_replica_cells(each)) for each in expert.replicas] or [
            (name, *["-"] * 7)
        ]
    yield from columns(rows)
    generation = f", generation {fleet.generation}" if fleet.generation else ""
    yield f"* answers when the router is unsure; strategy {fleet.strategy}{generation}"
    if fleet.drift.verdict:
        yield f"traffic: {fleet.drift.verdict}"
    if fleet.strategy_trouble:
        yield f"strategy {fleet.strategy} in trouble: {fleet.strategy_trouble}"
    for problem in fleet.not_taken:
        yield f"not taken: {problem}"
    if fleet.left_for_restart:
        yield f"changed, but taken by a restart only: {', '.join(fleet.left_for_restart)}"
    for gone in fleet.unreachable:
        yield f"unreachable: {gone.endpoint}: {gone.reason}"


def _form(name: str, expert: str, replica: Replica) -> str:
    """Return an expert's name, with the lower precision in which a replica serves it."""
    variant = next((one.variant for one in replica.description.experts if one.name == expert), "")
    return f"{name} {variant}" if variant else name


def _replica_cells(replica: Replica) -> tuple[str, ...]:
    load = replica.load
    return (
        replica.name,
        replica.endpoint,
        "serving" if replica.serving else "down",
        str(load.running),
        str(load.waiting),
        f"{load.kv_cache_use:.0%}",
        f"{load.tokens_per_second:.0f}",
    )


def _replica_shape(replica: Replica) -> dict[str, Any]:
    description = _fields(replica.description)
    description["experts"] = [_fields(expert) for expert in replica.description.experts]
    return {
        "name": replica.name,
        "endpoint": replica.endpoint,
        "serving": replica.serving,
        "description": description,
        "load": load_shape(replica.load),
        "outstanding": replica.outstanding,
    }


def _fields(message: "Message") -> dict[str, Any]:
    """Return all fields of a message without inner messages, by name."""
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
