"""Places that decisions hold for requests which do not pass the router: counted until they end, or should have."""

import asyncio
from dataclasses import dataclass

from mesh_wire.admission import Admission
from router_svc.replicas.replica import Replica

LONGEST_S = 600.0  # that a request without a deadline holds its place


@dataclass(frozen=True, slots=True)
class _Place:
    replica: Replica
    expert: str
    lapse: asyncio.TimerHandle


class Places:
    """The places held by one exchange of routes: each counts in the router and at its replica."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held: dict[int, _Place] = {}

    def hold(self, route_id: int, replica: Replica, expert: str, left_s: float | None) -> None:
        """Keep a place, which was taken in the router already, until `release` or for `left_s` seconds."""
        replica.hold()
        lapse = asyncio.get_running_loop().call_later(LONGEST_S if left_s is None else left_s, self.release, route_id)
        self._held[route_id] = _Place(replica, expert, lapse)

    def release(self, route_id: int) -> str:
        """Give a place back; returns whose it was, an expert's name, or nothing if none was held."""
        place = self._held.pop(route_id, None)
        if place is None:
            return ""
        place.lapse.cancel()
        place.replica.release()
        self._admission.release()
        return place.expert

    def close(self) -> None:
        """Give all back."""
        for route_id in list(self._held):
            self.release(route_id)
