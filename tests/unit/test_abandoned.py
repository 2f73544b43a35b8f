"""Requests that come again after a replica was lost in their midst."""

import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.errors import MeshError, Unavailable
from mesh_wire.resuming import name_of
from router_svc.abandoned import KEPT, UNTOLD, Abandoned

LOST = Unavailable("gone", reason="EXPERT_LOST")


def named(abandoned: Abandoned, request_id: str = "r") -> str:
    """Return the name that a request of that id has at a replica."""
    request = GenerateRequest(request_id=request_id)
    abandoned.tell_apart(request)
    return name_of(request)


@pytest.mark.parametrize("reason", sorted(UNTOLD))
def test_what_a_replica_may_still_be_at_comes_again_by_another_name_each_time(reason: str) -> None:
    abandoned = Abandoned()
    abandoned.note("r", Unavailable("gone", reason=reason))
    assert len({"r", *(named(abandoned) for _ in range(3))}) == 4
    assert named(abandoned, "another") == "another"


@pytest.mark.parametrize("reason", ["EXPERT_BUSY", "DRAINING", "ENGINE_DEAD"])
def test_what_a_replica_has_ended_itself_keeps_its_name(reason: str) -> None:
    abandoned = Abandoned()
    error: MeshError = Unavailable("no", reason=reason)
    abandoned.note("r", error)
    assert named(abandoned) == "r"


def test_the_oldest_names_are_forgotten() -> None:
    abandoned = Abandoned()
    for number in range(KEPT + 1):
        abandoned.note(str(number), LOST)
    assert named(abandoned, "0") == "0"
    assert named(abandoned, "1") != "1"
