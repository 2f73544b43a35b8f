"""The fleet as `ListExperts` tells it."""

from expertmesh.v1.router_pb2 import Expert, Replica, RouterProcess
from mesh_wire.admission import Admission
from mesh_wire.deadlines import duration
from router_svc.activity import Ledger
from router_svc.choosing.candidate import expected_wait_s
from router_svc.replicas import replica as replicas
from router_svc.replicas.fleet import Fleet


class Listing:
    """Puts into words what one router process knows of its fleet."""

    def __init__(self, fleet: Fleet, ledger: Ledger, admission: Admission, worker: int, workers: int) -> None:
        self._admission = admission
        self._fleet = fleet
        self._ledger = ledger
        self._process = RouterProcess(worker=worker or 1, workers=workers)

    def process(self) -> RouterProcess:
        """Return who tells."""
        self._process.window.CopyFrom(duration(self._ledger.window_s))
        self._process.refused = self._admission.refused
        return self._process

    def experts(self) -> list[Expert]:
        """Return every expert that any replica has said it serves, by name, each with its replicas by endpoint."""
        experts: dict[str, Expert] = {}
        for replica in sorted(self._fleet.replicas, key=lambda replica: replica.endpoint):
            told = _told(replica)
            for served in replica.description.experts:
                if (expert := experts.get(served.name)) is None:
                    expert = Expert(name=served.name, activity=self._ledger.lately(served.name))
                    experts[served.name] = expert
                expert.available = expert.available or told.serving
                expert.replicas.append(told)
        return [experts[name] for name in sorted(experts)]


def _told(replica: replicas.Replica) -> Replica:
    told = Replica(
        name=replica.description.replica,
        endpoint=replica.endpoint,
        serving=not replica.trouble,
        description=replica.description,
        load=replica.load,
        outstanding=replica.outstanding,
    )
    if told.serving:
        told.expected_wait.CopyFrom(duration(expected_wait_s(replica.candidate)))
    return told
