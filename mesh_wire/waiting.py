"""The wait for a first token that an engine's load lets expect. Pure functions, for routers and experts alike."""

from typing import NamedTuple

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import seconds

UNMEASURED_STEP_S = 0.025  # the step time assumed of an engine that has made none yet
UNMEASURED_STEPS = 64  # that a request is assumed to hold its place for, until one has ended
CACHE_FULL = 0.9  # share of the KV cache from which waiting requests wait for room in it


class Terms(NamedTuple):
    """What a load says of waiting."""

    held: int  # requests, running and waiting
    running: int  # where the cache is full, all that have room in it; else 0
    step_s: float
    place_s: float  # that a request holds its place
    reading_s: float  # of what is queued


def terms_of(load: Load) -> Terms:
    """Return what a load says of waiting."""
    step_s = max(0.0, seconds(load.step_time)) if load.HasField("step_time") else UNMEASURED_STEP_S
    place_s = max(0.0, seconds(load.place_time)) if load.HasField("place_time") else UNMEASURED_STEPS * step_s
    reading_s = load.queued_prompt_tokens * max(0.0, seconds(load.prompt_token_time))
    is_full = load.waiting > 0 and load.kv_cache_use >= CACHE_FULL
    return Terms(load.running + load.waiting, load.running if is_full else 0, step_s, place_s, reading_s)


def places_of(terms: Terms, max_running: int) -> int:
    """Return how many sequences an engine can run at once: as many as have room in its cache, where that is full."""
    places = max_running or 1
    return terms.running if 0 < terms.running < places else places


def place_wait_s(terms: Terms, held: int, max_running: int) -> float:
    """Return the wait for a place, in seconds, of one request more than `held`.

    An engine that is full must first end as many requests as wait, and one more; with n places, one comes free every
    n-th part of the time that a request holds its own.
    """
    places = places_of(terms, max_running)
    return max(0, held + 1 - places) * terms.place_s / places


def wait_s(terms: Terms, held: int, max_running: int) -> float:
    """Return the wait for a first token, in seconds, of one request more than `held`.

    An engine with a free place starts in its next step, which takes the longer the more run. What is queued is read
    before.
    """
    step_s = terms.step_s * (1 + held / (max_running or 1))
    return step_s + terms.reading_s + place_wait_s(terms, held, max_running)
