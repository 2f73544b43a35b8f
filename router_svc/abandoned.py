"""Requests that were given up here, and that a replica may be at all the same: nobody could tell it.

Whoever asks for one again, by gRPC's own retry for instance, comes under the same name. If the replica is asked under
that as well, it takes the new request for a copy of the old one, which it still answers into a dead connection.
"""

from collections import OrderedDict
from collections.abc import Callable
from random import getrandbits

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.errors import MeshError

UNTOLD = frozenset({"EXPERT_LOST", "EXPERT_STALLED"})  # how an attempt ends whose replica cannot be told so
KEPT = 10_000  # names; a replica finds out within a minute


class Abandoned:
    """Remembers names, and has the next attempt go by another."""

    def __init__(self, drawn: Callable[[int], int] = getrandbits) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()
        self._drawn = drawn

    def note(self, request_id: str, error: MeshError) -> None:
        """Take note of how an attempt ended."""
        if error.reason in UNTOLD:
            self._names[request_id] = None
            self._names.move_to_end(request_id)
            if len(self._names) > KEPT:
                self._names.popitem(last=False)

    def tell_apart(self, request: GenerateRequest) -> None:
        """Give a request that comes again a number that no former attempt has, by chance; see `Resume.attempt`."""
        if self._names and request.request_id in self._names:
            request.resume.attempt = self._drawn(31) or 1
