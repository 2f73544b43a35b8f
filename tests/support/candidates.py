"""Replicas as selection sees them, and any fleet at all of them."""

from typing import Any

from hypothesis import strategies as st

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import duration
from router_svc.choosing.candidate import Candidate

PLACES = [f"10.0.0.{n}:1" for n in range(6)]
NAMES = ["general", "math", "coding", "law"]


def replica(name: str, *experts: str, **more: Any) -> Candidate:
    """Return a replica that is up and idle, unless told otherwise."""
    fields = {"replica": name, "endpoint": f"{name}:1", "experts": frozenset(experts), "serving": True, "load": Load()}
    return Candidate(**{**fields, **more})


def twin(name: str, *experts: str, **more: Any) -> Candidate:
    """Return a replica that serves int8 twins."""
    return replica(name, *experts, variants=dict.fromkeys(experts, "int8"), **more)


def waiting(wait_s: float) -> Load:
    """Return the load of an idle engine that lets expect a wait."""
    return Load(step_time=duration(wait_s))


names = st.sampled_from(NAMES)
durations = st.none() | st.builds(duration, st.floats(0, 10))
loads = st.builds(
    Load,
    running=st.integers(0, 200),
    waiting=st.integers(0, 200),
    kv_cache_use=st.floats(),
    queued_prompt_tokens=st.integers(0, 100_000),
    step_time=durations,
    prompt_token_time=durations,
    place_time=durations,
)


@st.composite
def any_candidate(draw: st.DrawFn) -> Candidate:
    """Return any replica, up or down."""
    experts = draw(st.frozensets(names, max_size=3))
    return Candidate(
        replica=draw(st.text(max_size=3)),
        endpoint=draw(st.sampled_from(PLACES)),
        experts=experts,
        serving=draw(st.booleans()),
        load=draw(loads),
        variants=dict.fromkeys(draw(st.sets(st.sampled_from(sorted(experts)))) if experts else (), "int8"),
        outstanding=draw(st.integers(0, 50)),
        untold=draw(st.integers(-50, 50)),
        max_running=draw(st.integers(0, 64)),
        told_at=draw(st.none() | st.floats(-10, 0)),
    )


any_fleet = st.lists(any_candidate(), max_size=6, unique_by=lambda one: one.endpoint)
