"""The replicas for which the same requests wait, and how soon they have room."""

import math
from collections.abc import Callable

from mesh_wire.admission_section import PRIORITIES, AdmissionSection
from mesh_wire.waiting import place_wait_s, places_of, terms_of
from router_svc.admitting.class_queue import ClassQueue
from router_svc.admitting.fair_queue import Stand
from router_svc.choosing.candidate import Candidate, held_at
from router_svc.choosing.roster import Roster

LOOK_EVERY_S = 0.1  # how often a pool's replicas are looked at
AHEAD = 1 / 16  # of its places are what an engine has waiting, so that none stays empty
READING_S = 2.0  # of prompts are what an engine has to read at most, when it is given another
SHORTEST_WAIT_S = 0.25  # that is never too long, by itself


def has_room(candidate: Candidate) -> bool:
    """Whether a replica should be given a request now: it would have a place at once, or very soon.

    More would only wait there, where who comes first goes first, whoever it is from.
    """
    if not candidate.max_running:
        return True
    terms = candidate.terms or terms_of(candidate.load)
    places = places_of(terms, candidate.max_running)
    return held_at(candidate, terms) < places + math.ceil(places * AHEAD) and terms.reading_s <= READING_S


class Pool:
    """The replicas of one expert, or of several that share them, and what waits for them."""

    def __init__(self, section: AdmissionSection) -> None:
        self.queue = ClassQueue(len(PRIORITIES), section.lower_share)
        self.every_s = 0.0  # seconds in which a place comes free, while all are taken
        self._section = section

    @property
    def longest_s(self) -> float:
        """The longest wait that a request may expect."""
        section = self._section
        if section.max_wait_s is not None:
            return section.max_wait_s
        return max(SHORTEST_WAIT_S, section.queue * self.every_s)

    def wait_s(self, stand: Stand, rank: int) -> float:
        """Return the wait for a place that a request may expect that joins now."""
        return (self.queue.ahead(stand, rank) + 1) * self.every_s


class Pools:
    """All pools of a fleet. Times are seconds of any one clock."""

    def __init__(self, roster: Callable[[], Roster], section: AdmissionSection) -> None:
        self._roster = roster
        self._section = section
        self._pools: dict[frozenset[str], Pool] = {}  # by endpoints
        self._of: dict[str, tuple[Pool, float]] = {}  # expert -> its pool, and until when that is known

    @property
    def waiting(self) -> list[Pool]:
        """Those before which requests wait."""
        return [pool for pool in self._pools.values() if pool.queue]

    def of(self, expert: str, now: float) -> Pool:
        """Return where requests for an expert wait."""
        pool, until = self._of.get(expert, (None, -math.inf))
        if pool is None or until < now:
            pool = self._looked_at(expert)
            self._of[expert] = (pool, now + LOOK_EVERY_S)
        return pool

    def of_all(self, now: float) -> list[Pool] | None:
        """Return the pools of all experts that are up; None if requests can go to one of them without waiting."""
        roster = self._roster()
        pools = []
        for expert in roster.full.keys() | roster.lower.keys():
            pool = self.of(expert, now)
            if not pool.queue:
                return None
            pools.append(pool)
        return pools

    def _looked_at(self, expert: str) -> Pool:
        roster = self._roster()
        shelves = [shelf for shelf in (roster.full.get(expert), roster.lower.get(expert)) if shelf is not None]
        replicas = [entry[3] for shelf in shelves for entry in shelf.rising]
        endpoints = frozenset(each.endpoint for each in replicas)
        if (pool := self._pools.get(endpoints)) is None:
            self._pools = {place: each for place, each in self._pools.items() if each.queue or place in self._named()}
            pool = self._pools[endpoints] = Pool(self._section)
        pool.every_s = every_s(replicas)
        return pool

    def _named(self) -> set[frozenset[str]]:
        """Return the endpoints of the pools that experts have now."""
        now = {id(pool) for pool, _ in self._of.values()}
        return {endpoints for endpoints, pool in self._pools.items() if id(pool) in now}


def every_s(replicas: list[Candidate]) -> float:
    """Return the seconds in which one of all places comes free, while all are taken; 0: nothing takes any time."""
    rate = 0.0
    for each in replicas:
        terms = each.terms or terms_of(each.load)
        one_s = place_wait_s(terms, places_of(terms, each.max_running), each.max_running)  # for one more than all
        rate += 1 / one_s if one_s else math.inf
    return 1 / rate if rate else 0.0
