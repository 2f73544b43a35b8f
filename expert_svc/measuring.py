"""What an expert process exports of its engine whenever metrics are collected."""

from collections.abc import Callable

from expert_svc.engine import Engine
from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import seconds
from mesh_wire.telemetry import Telemetry


def observe_engine(telemetry: Telemetry, engine: Engine) -> None:
    """Export the engine's load, and the tokens that it has generated."""

    def load(figure: Callable[[Load], float | None]) -> Callable[[], float | None]:
        return lambda: figure(engine.board.latest)

    telemetry.observe(
        "expertmesh.engine.running", "Sequences in the batch", load(lambda now: now.running), unit="{request}"
    )
    telemetry.observe(
        "expertmesh.engine.waiting",
        "Requests let in that have no place in the batch",
        load(lambda now: now.waiting),
        unit="{request}",
    )
    telemetry.observe(
        "expertmesh.engine.queued_prompt_tokens",
        "Prompt tokens of the waiting requests",
        load(lambda now: now.queued_prompt_tokens),
        unit="{token}",
    )
    telemetry.observe(
        "expertmesh.engine.kv_cache_use", "Share of the KV cache in use", load(lambda now: now.kv_cache_use)
    )
    telemetry.observe_seconds(
        "expertmesh.engine.step_time",
        "Time that a step takes, as a moving average",
        load(lambda now: seconds(now.step_time) if now.HasField("step_time") else None),
    )
    telemetry.observe_total(
        "expertmesh.engine.tokens",
        "Tokens generated, of all sequences, as they come",
        lambda: [(engine.board.generated, {})],
        unit="{token}",
    )
