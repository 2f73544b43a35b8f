"""One replica as selection sees it, and the wait that it lets expect."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.waiting import UNMEASURED_STEP_S, Terms, terms_of, wait_s

__all__ = [
    "UNMEASURED_STEP_S",
    "Candidate",
    "Terms",
    "expected_wait_s",
    "held_at",
    "held_per_place",
    "is_measured",
    "is_stale",
    "terms_of",
]

_NO_VARIANTS: Mapping[str, str] = MappingProxyType({})


class Candidate(NamedTuple):  # made for every request that begins or ends: a frozen dataclass takes four times as long
    """One replica as the router knows it."""

    replica: str  # the name it gives itself
    endpoint: str  # host:port
    experts: frozenset[str]  # all that it serves
    serving: bool
    load: Load
    variants: Mapping[str, str] = _NO_VARIANTS  # those of `experts` that it serves as twins -> their lower precision
    outstanding: int = 0  # requests that this router has under way there
    untold: int = 0  # what this router's own share has grown by since the load was told; negative: shrunk
    max_running: int = 1  # sequences that its engine runs at once; 0: it does not tell
    told_at: float | None = None  # seconds of some clock at which the load was told; None: never
    terms: Terms | None = None  # of the load, where they have been taken already: requests come more often than loads


def held_at(candidate: Candidate, terms: Terms) -> int:
    """Return how many requests a replica is thought to hold, everybody's.

    Its report counts them, but may be older than what this router has begun and ended since, which is therefore added.
    It may also have left before this router's last requests arrived: there are never fewer than its own.
    """
    return max(terms.held + candidate.untold, candidate.outstanding)


def expected_wait_s(candidate: Candidate) -> float:
    """Estimate the wait for a first token, in seconds."""
    terms = candidate.terms or terms_of(candidate.load)
    return wait_s(terms, held_at(candidate, terms), candidate.max_running)


def held_per_place(candidate: Candidate) -> float:
    """Return how many requests a replica is thought to hold for each place of its engine."""
    return held_at(candidate, candidate.terms or terms_of(candidate.load)) / (candidate.max_running or 1)


def is_measured(candidate: Candidate) -> bool:
    """Whether its engine has made a step: otherwise its expected wait is a guess."""
    return candidate.load.HasField("step_time")


def is_stale(candidate: Candidate, now: float, after_s: float) -> bool:
    """Whether a load is too old to be trusted.

    Engines report changes. So silence says nothing of an idle engine; a busy one makes steps, and should be heard of.

    Args:
        now: seconds of the clock of `told_at`.
        after_s: seconds of silence that a busy engine is given.
    """
    if not (candidate.outstanding or candidate.load.running or candidate.load.waiting):
        return False
    return candidate.told_at is None or now - candidate.told_at > after_s
