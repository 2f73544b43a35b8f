"""What a router exports of its fleet whenever metrics are collected."""

from collections import Counter
from collections.abc import Callable, Iterable

from mesh_wire.metrics import Labels, Values
from mesh_wire.telemetry import Telemetry
from router_svc.choosing.candidate import expected_wait_s
from router_svc.replicas.fleet import Fleet
from router_svc.replicas.replica import Replica


def observe_fleet(telemetry: Telemetry, fleet: Fleet) -> None:
    """Export each replica's state and load, and how many replicas each expert has."""

    def known() -> list[Replica]:
        return list(fleet.replicas)  # at once: this runs in a thread, beside a fleet that changes

    def of_each(figure: Callable[[Replica], float], *, serving: bool = True) -> Values:
        def values() -> Iterable[tuple[float, Labels]]:
            return [(figure(each), _labels(each)) for each in known() if not (serving and each.trouble)]

        return values

    def replicas_by_expert() -> Iterable[tuple[float, Labels]]:
        counts: Counter[tuple[str, str]] = Counter()
        for each in known():
            for expert in each.description.experts:
                up = "down" if each.trouble else "up"
                counts[expert.name, up] += 1
                counts[expert.name, "up" if up == "down" else "down"] += 0  # so that a line falls to 0
        return [
            (count, {"expertmesh.expert": expert, "expertmesh.state": state})
            for (expert, state), count in counts.items()
        ]

    replica = "expertmesh.replica"
    telemetry.observe_each(
        f"{replica}.up", "Whether a replica takes requests: 1 or 0", of_each(_up, serving=False), unit="1"
    )
    telemetry.observe_each(
        f"{replica}.running", "Sequences in its batch", of_each(lambda each: each.load.running), unit="{request}"
    )
    telemetry.observe_each(
        f"{replica}.waiting",
        "Requests that it has let in and that have no place in its batch",
        of_each(lambda each: each.load.waiting),
        unit="{request}",
    )
    telemetry.observe_each(
        f"{replica}.kv_cache_use", "Share of its KV cache in use", of_each(lambda each: each.load.kv_cache_use)
    )
    telemetry.observe_each(
        f"{replica}.token_rate",
        "Tokens that it generates per second",
        of_each(lambda each: each.load.tokens_per_second),
        unit="{token}/s",
    )
    telemetry.observe_each(
        f"{replica}.expected_wait",
        "The wait for a first token that its load lets expect",
        of_each(lambda each: expected_wait_s(each.candidate)),
        unit="s",
    )
    telemetry.observe_each(
        f"{replica}.outstanding",
        "Requests that this router process has under way there",
        of_each(lambda each: each.outstanding, serving=False),
        unit="{request}",
    )
    telemetry.observe_each(
        "expertmesh.expert.replicas", "Replicas of an expert, by state", replicas_by_expert, unit="{replica}"
    )
    telemetry.observe(
        "expertmesh.fleet.unreachable",
        "Addresses and names behind which nobody has ever answered",
        lambda: len(fleet.unreachable),
        unit="{target}",
    )


def _up(replica: Replica) -> float:
    return 0.0 if replica.trouble else 1.0


def _labels(replica: Replica) -> Labels:
    return {
        "expertmesh.replica": replica.description.replica or "unknown",
        "expertmesh.endpoint": replica.endpoint,
    }
