"""What a router exports of waiting: how many wait, for how long they did, and how it ended."""

from collections.abc import Iterable

from mesh_wire.admission_section import PRIORITIES
from mesh_wire.metrics import FIRST_TOKEN_BOUNDS, Labels
from mesh_wire.telemetry import Telemetry
from router_svc.admitting.turns import Turns, Waited


def waits_of(telemetry: Telemetry) -> Waited:
    """Return what measures each wait that is over. Requests that go at once have none."""
    waits = telemetry.meter.create_histogram(
        "expertmesh.admission.wait",
        unit="s",
        description="Time that requests waited for their turn, by class and by how it ended",
        explicit_bucket_boundaries_advisory=list(FIRST_TOKEN_BOUNDS),
    )

    def waited(seconds: float, priority: str, outcome: str) -> None:
        waits.record(seconds, {"expertmesh.priority": priority, "expertmesh.outcome": outcome})

    return waited


def observe_queue(telemetry: Telemetry, turns: Turns) -> None:
    """Export how many requests of each class wait."""

    def values() -> Iterable[tuple[float, Labels]]:
        waiting = zip(turns.waiting, PRIORITIES, strict=True)
        return [(count, {"expertmesh.priority": name}) for count, name in waiting]

    telemetry.observe_each(
        "expertmesh.admission.waiting", "Requests that wait for their turn, by class", values, unit="{request}"
    )
