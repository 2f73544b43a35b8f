"""The fleet in the order in which it would answer, kept up to date a replica at a time.

What a decision costs must not grow with the fleet: it reads the head of one list, and a change moves one entry in it.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from router_svc.choosing.affinity import Homes
from router_svc.choosing.candidate import Candidate, expected_wait_s

Entry = tuple[float, int, str, Candidate]  # expected wait in seconds, outstanding, endpoint: the last is unique


class Shelf:
    """The replicas of one expert, in one precision, that are up: the least expected wait first."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.rising = sorted(entries)
        self._at = {entry[2]: entry for entry in self.rising}  # by endpoint
        self._homes: Homes | None = None

    @property
    def least_s(self) -> float:
        """The least expected wait, in seconds."""
        return self.rising[0][0]

    def put(self, entry: Entry) -> None:
        """Add a replica, or move it to where it belongs now."""
        rising = self.rising
        if (old := self._at.get(entry[2])) is None:
            self._homes = None
            insort(rising, entry)
        else:
            at = 0 if len(rising) == 1 else bisect_left(rising, old[:3])
            if (not at or rising[at - 1] < entry) and (at + 1 == len(rising) or entry < rising[at + 1]):
                rising[at] = entry  # it stays where it is
            else:
                del rising[at]
                insort(rising, entry)
        self._at[entry[2]] = entry

    def remove(self, endpoint: str) -> None:
        """Take a replica off, if it is here."""
        if (old := self._at.pop(endpoint, None)) is not None:
            del self.rising[bisect_left(self.rising, old[:3])]
            self._homes = None

    def without(self, endpoints: Collection[str]) -> "Shelf":
        """Return the same without some."""
        if self._at.keys().isdisjoint(endpoints):
            return self
        return Shelf(entry for entry in self.rising if entry[2] not in endpoints)

    def up_to(self, wait_s: float) -> int:
        """Count the replicas that let expect at most that wait."""
        return bisect_right(self.rising, (wait_s, math.inf))

    def home(self, conversation: int) -> Entry:
        """Return a conversation's own replica: see `affinity`."""
        if len(self.rising) == 1:
            return self.rising[0]
        if self._homes is None:
            self._homes = Homes(self._at)
        return self._at[self._homes.of(conversation)]


Shelves = dict[str, Shelf]  # by expert; none is empty


class Roster:
    """All replicas, and who of them is up for which expert."""

    def __init__(self, fleet: Iterable[Candidate] = ()) -> None:
        self.full: Shelves = {}  # the experts themselves
        self.lower: Shelves = {}  # their twins in lower precision
        self._known: dict[str, Candidate] = {}  # by endpoint
        self._serving: Counter[str] = Counter()  # expert -> replicas of it, those that are down included
        self._serving_lower: Counter[str] = Counter()  # likewise, of its twin
        for candidate in fleet:
            self.put(candidate)

    @property
    def known(self) -> Collection[Candidate]:
        """Every replica, up or down."""
        return self._known.values()

    def candidate(self, endpoint: str) -> Candidate:
        """Return a replica that is known."""
        return self._known[endpoint]

    @property
    def served(self) -> Mapping[str, int]:
        """The experts that have a replica, or a twin's, up or down."""
        return self._serving

    @property
    def twins(self) -> Mapping[str, int]:
        """The experts that have a twin, up or down."""
        return self._serving_lower

    def put(self, candidate: Candidate) -> None:
        """Take note of a replica, or of what has changed about it."""
        old = self._known.get(candidate.endpoint)
        if old is not None and not _same_place(old, candidate):
            self.drop(candidate.endpoint)
            old = None
        self._known[candidate.endpoint] = candidate
        if old is None:
            self._serving.update(candidate.experts)
            self._serving_lower.update(candidate.variants.keys())
        if candidate.serving:
            entry = (expected_wait_s(candidate), candidate.outstanding, candidate.endpoint, candidate)
            variants = candidate.variants
            for expert in candidate.experts:
                shelves = self.lower if variants and expert in variants else self.full
                if (shelf := shelves.get(expert)) is not None:
                    shelf.put(entry)
                else:
                    shelves[expert] = Shelf((entry,))

    def drop(self, endpoint: str) -> None:
        """Forget a replica."""
        if (gone := self._known.pop(endpoint, None)) is None:
            return
        self._serving -= Counter(gone.experts)
        self._serving_lower -= Counter(gone.variants.keys())
        if gone.serving:
            for expert in gone.experts:
                shelves = self.lower if expert in gone.variants else self.full
                shelves[expert].remove(endpoint)
                if not shelves[expert].rising:
                    del shelves[expert]


def _same_place(one: Candidate, other: Candidate) -> bool:
    """Whether both stand on the same shelves."""
    return one.serving == other.serving and one.experts == other.experts and one.variants == other.variants
