"""One replica as selection sees it, and the wait that it lets expect."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import seconds

UNMEASURED_STEP_S = 0.025  # the step time assumed of an engine that has made none yet
UNMEASURED_STEPS = 64  # that a request is assumed to hold its place for, until one has ended
CACHE_FULL = 0.9  # share of the KV cache from which waiting requests wait for room in it
_NO_VARIANTS: Mapping[str, str] = MappingProxyType({})


class Terms(NamedTuple):
    """What a load says of waiting."""

    held: int  # requests, running and waiting
    running: int  # where the cache is full, all that have room in it; else 0
    step_s: float
    place_s: float  # that a request holds its place
    reading_s: float  # of what is queued


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
    max_running: int = 1  # sequences that its engine runs at once
    told_at: float | None = None  # seconds of some clock at which the load was told; None: never
    terms: Terms | None = None  # of the load, where they have been taken already: requests come more often than loads


def terms_of(load: Load) -> Terms:
    """Return what a load says of waiting."""
    step_s = max(0.0, seconds(load.step_time)) if load.HasField("step_time") else UNMEASURED_STEP_S
    place_s = max(0.0, seconds(load.place_time)) if load.HasField("place_time") else UNMEASURED_STEPS * step_s
    reading_s = load.queued_prompt_tokens * max(0.0, seconds(load.prompt_token_time))
    is_full = load.waiting > 0 and load.kv_cache_use >= CACHE_FULL
    return Terms(load.running + load.waiting, load.running if is_full else 0, step_s, place_s, reading_s)


def expected_wait_s(candidate: Candidate) -> float:
    """Estimate the wait for a first token, in seconds.

    An engine with a free place starts in its next step, which takes the longer the more run. One that is full must
    first end as many requests as wait, and one more; with n places, one comes free every n-th part of the time that a
    request holds its own. What is queued is read before.

    The engine's report counts everybody's requests, but may be older than what this router has begun and ended since,
    which is therefore added. It may also have left before this router's last requests arrived: there are never fewer
    than its own.
    """
    told, running, step_s, place_s, reading_s = candidate.terms or terms_of(candidate.load)
    held = max(told + candidate.untold, candidate.outstanding)
    places = candidate.max_running or 1
    wait_s = step_s * (1 + held / places) + reading_s
    if 0 < running < places:
        places = running
    if (before := held + 1 - places) > 0:
        wait_s += before * place_s / places
    return wait_s


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
