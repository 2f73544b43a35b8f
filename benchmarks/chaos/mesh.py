"""The mesh that is broken: two routers, three replicas of each of two experts, a trace store, and the callers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.network import Network
from benchmarks.chaos.processes import Kept
from benchmarks.data_plane.host import python
from mesh_wire.settings import Simulation

EXPERTS, REPLICAS, ROUTERS = ("general", "math"), 3, 2
ROUTER_PORT, EXPERT_PORT, OTLP_PORT = 50050, 50061, 4317
STORE, CALLERS = "traces", "callers"
DRAIN_S = 3.0
TRACED = "0.1"  # of the requests
PROFILE = Simulation(prefill_tokens_per_s=20_000, step_base_s=0.015, slots=512)
PLENTY = 2000

ROUTER_NODES = tuple(f"router-{n}" for n in range(ROUTERS))
REPLICA_NODES = {expert: tuple(f"{expert}-{n}" for n in range(REPLICAS)) for expert in EXPERTS}
GROUPS: Mapping[str, tuple[str, ...]] = {"router": ROUTER_NODES, **REPLICA_NODES}
NODES = (*ROUTER_NODES, *(node for nodes in REPLICA_NODES.values() for node in nodes), STORE, CALLERS)


@dataclass(frozen=True, slots=True)
class ChaosMesh:
    """All of it, running."""

    network: Network
    disk: Disk
    kept: Mapping[str, Kept]
    folder: Path

    @property
    def targets(self) -> list[str]:
        return [f"{self.network.addresses[node]}:{ROUTER_PORT}" for node in ROUTER_NODES]

    def endpoint(self, node: str) -> str:
        return f"{self.network.addresses[node]}:{EXPERT_PORT}"

    def name_all(self, *, without: Iterable[str] = (), strangers: bool = False, nothing: bool = False) -> None:
        """Have the experts' names lead to their replicas, for the routers.

        Args:
            without: replicas that are missing.
            strangers: each name leads to an address where nobody is, too.
            nothing: no name leads anywhere.
        """
        missing = set(without)
        hosts = {
            name_of(expert): [self.network.addresses[node] for node in nodes if node not in missing]
            + ([self.network.stranger] if strangers else [])
            for expert, nodes in REPLICA_NODES.items()
            if not nothing
        }
        for node in ROUTER_NODES:
            self.network.name(node, hosts)


def name_of(expert: str) -> str:
    return f"{expert}.mesh"


def files(folder: Path, network: Network, profile: Simulation) -> None:
    """Write the mesh file of each process."""
    for node in ROUTER_NODES:
        router: dict[str, Any] = {
            "listen": f"{network.addresses[node]}:{ROUTER_PORT}",
            "strategy": "random",
            "targets": [f"dns:///{name_of(expert)}:{EXPERT_PORT}" for expert in EXPERTS],
            "drain_grace_s": DRAIN_S,
            "max_in_flight": PLENTY,
        }
        _write(folder / f"{node}.yaml", {"router": router})
    for expert, nodes in REPLICA_NODES.items():
        for node in nodes:
            section = {
                "name": node,
                "listen": f"{network.addresses[node]}:{EXPERT_PORT}",
                "serves": {expert: None},
                "simulated": profile.model_dump(exclude_defaults=True),
                "drain_grace_s": DRAIN_S,
                "max_in_flight": PLENTY,
                "queue": PLENTY,
            }
            _write(
                folder / f"{node}.yaml", {"router": {"strategy": "random", "generalist": expert}, "experts": [section]}
            )


def _write(path: Path, mesh: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(mesh), encoding="utf-8")  # which is YAML


@contextmanager
def running(network: Network, disk: Disk, folder: Path, profile: Simulation) -> Iterator[ChaosMesh]:
    """Have every process started, until the block ends; files and logs are in `folder`."""
    files(folder, network, profile)
    store = f"{network.addresses[STORE]}:{OTLP_PORT}"
    told = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{store}",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": TRACED,
        "EXPERTMESH_LOG": "INFO",
    }
    commands = {STORE: python("benchmarks.chaos.trace_store", "--listen", store, "--folder", str(disk.folder))}
    for node in ROUTER_NODES:
        commands[node] = python("router_svc", "--config", str(folder / f"{node}.yaml"))
    for nodes in REPLICA_NODES.values():
        for node in nodes:
            commands[node] = python("expert_svc", "--config", str(folder / f"{node}.yaml"), "--name", node)
    kept = {node: Kept(node, network.inside(node, *command), folder, told) for node, command in commands.items()}
    mesh = ChaosMesh(network, disk, kept, folder)
    mesh.name_all()
    try:
        for one in kept.values():
            one.start()
        yield mesh
    finally:
        for one in kept.values():
            one.end()
