"""What a decision is made from, beside the fleet and the scores, and what it consists of."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum, auto
from types import MappingProxyType
from typing import NamedTuple

from expertmesh.v1.generation_pb2 import Affinity, Precision, RouteReason
from router_svc.choosing.candidate import Candidate

# Read once: the generated type looks each name up anew.
PINNED, UNSURE = RouteReason.ROUTE_REASON_PINNED, RouteReason.ROUTE_REASON_UNSURE
UNSERVED, CONFIDENT = RouteReason.ROUTE_REASON_UNSERVED, RouteReason.ROUTE_REASON_CONFIDENT
SPILLED, SIBLING = RouteReason.ROUTE_REASON_SPILLED, RouteReason.ROUTE_REASON_SIBLING
ANY, FULL, LOWER = Precision.PRECISION_UNSPECIFIED, Precision.PRECISION_FULL, Precision.PRECISION_LOWER
HOMELESS, KEPT, GIVEN_UP = Affinity.AFFINITY_UNSPECIFIED, Affinity.AFFINITY_KEPT, Affinity.AFFINITY_GIVEN_UP


class Case(IntEnum):
    """By what the expert was chosen, before precision and load were looked at."""

    NAMED = auto()  # the caller named it
    UNREAD = auto()  # there are no scores
    NO_PROBABILITIES = auto()  # the scores are none
    DOWN = auto()  # the best expert is not up, or may not answer this request
    UNKNOWN = auto()  # nobody serves what scored best
    FORBIDDEN = auto()  # the caller may not ask what scored best
    DOUBTFUL = auto()  # the best score is below the threshold
    CLEAR = auto()  # it is not


REASONS = {
    Case.NAMED: PINNED,
    Case.UNREAD: UNSURE,
    Case.NO_PROBABILITIES: UNSURE,
    Case.DOWN: UNSERVED,
    Case.UNKNOWN: UNSERVED,
    Case.FORBIDDEN: UNSERVED,
    Case.DOUBTFUL: UNSURE,
    Case.CLEAR: CONFIDENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to decide: the router's settings, whose meaning `mesh_wire.settings` gives."""

    generalist: str
    threshold: float
    spill_ms_per_point: float | None = None
    quality_floor: float = 0.0
    sibling_ms: float = 0.0
    affinity_ms: float = 0.0
    stale_after_s: float = math.inf


class Wish(NamedTuple):
    """What one request asks of the decision, and the circumstances in which it asks."""

    pinned: str = ""  # the expert that the caller named
    precision: Precision = ANY
    conversation: int | None = None  # its hash: see `affinity`
    excluded: Collection[str] = ()  # endpoints that failed this request already
    chance: float | None = None  # a random number in [0, 1), where other routers may choose at once; None: they do not
    now: float = 0.0  # seconds of the clock of `Candidate.told_at`
    allowed: Collection[str] | None = None  # experts that the caller may ask; None: all
    queued: Mapping[str, float] = MappingProxyType({})  # expert -> seconds until its turn, before any replica has it


class Decision(NamedTuple):
    """Who answers, and why."""

    reason: RouteReason
    case: Case
    expert: str
    variant: str  # its lower precision; empty: the expert itself
    score: float
    chosen: Candidate
    wait_s: float  # that the chosen replica lets expect
    more: bool  # whether another replica of the expert could answer in its place, in either precision
    affinity: Affinity = HOMELESS
    best: str = ""  # the expert that scored best, where the scores were read
    best_score: float = 0.0
    spilled_from_s: float | None = None  # the wait that it would have been there; None: it was not left for another
    full_s: float | None = None  # the wait for the expert itself where its twin answers; None: nobody of it is up
    generalist: str = ""  # who stands in for it, where the caller may not ask the generalist


NOTHING = Wish()
