"""Workers that share replicas, in a time of its own: what each knows is as old as the last load report.

The rule that chooses is the router's own, `router_svc.choosing.selection`'s; only engines and wires are models.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import duration
from router_svc.choosing.candidate import Candidate
from router_svc.choosing.decision import Policy, Wish
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import select

EXPERT = "general"
POLICY = Policy(generalist=EXPERT, threshold=0.0)
ONE_WAY_S = 0.001  # of a request, a load report or an end
REPORT_EVERY_S = 0.05  # an expert's shortest pause between two reports
SAMPLE_EVERY_S = 0.005
WARM_S, LAST_S = 2.0, 20.0
RULES = {
    "blind": "any replica, by chance",
    "larger": "the larger of report and own count, ties in a fixed order",
    "untold": "the report and what became of the own requests since, ties in a fixed order",
    "two choices": "that, and the better of two near the best: what the router does",
}


@dataclass
class _View:
    """What one worker knows of one replica."""

    told: int = 0
    own: int = 0
    own_then: int = 0


class Model:
    """A closed loop of requests over workers and replicas."""

    def __init__(self, rule: str, *, workers: int, replicas: int, requests: int, answer_s: float, seed: int) -> None:
        self._rule = rule
        self._random = random.Random(seed)
        self._answer_s = answer_s
        self._held = [0] * replicas
        self._views = [[_View() for _ in range(replicas)] for _ in range(workers)]
        # Engines measure their own step time, and never quite the same.
        self._step_s = [duration(0.025 * self._random.uniform(0.97, 1.03)) for _ in range(replicas)]
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()
        self._now = 0.0
        for replica in range(replicas):
            self._at(self._random.uniform(0, REPORT_EVERY_S), self._report, replica)
        for request in range(requests):
            self._at(0.1, self._start, request % workers)

    def ratios(self) -> Iterator[float]:
        """Yield the most of any replica over the mean of all, sample by sample."""
        sample_at = WARM_S
        while self._now < LAST_S:
            at, _, act, arguments = heapq.heappop(self._events)
            while sample_at < at:
                yield max(self._held) * len(self._held) / max(1, sum(self._held))
                sample_at += SAMPLE_EVERY_S
            self._now = at
            act(*arguments)

    def _at(self, after_s: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + after_s, next(self._number), act, arguments))

    def _start(self, worker: int) -> None:
        replica = self._choose(worker)
        self._views[worker][replica].own += 1
        self._at(ONE_WAY_S, self._arrive, worker, replica)

    def _arrive(self, worker: int, replica: int) -> None:
        self._held[replica] += 1
        self._at(self._random.expovariate(1 / self._answer_s), self._end, worker, replica)

    def _end(self, worker: int, replica: int) -> None:
        self._held[replica] -= 1
        self._at(ONE_WAY_S, self._ended, worker, replica)

    def _ended(self, worker: int, replica: int) -> None:
        self._views[worker][replica].own -= 1
        self._start(worker)

    def _report(self, replica: int) -> None:
        self._at(ONE_WAY_S, self._hear, replica, self._held[replica])
        self._at(REPORT_EVERY_S, self._report, replica)

    def _hear(self, replica: int, held: int) -> None:
        for views in self._views:
            view = views[replica]
            view.told, view.own_then = held, view.own

    def _choose(self, worker: int) -> int:
        if self._rule == "blind":
            return self._random.randrange(len(self._held))
        known = [
            Candidate(
                replica="",
                endpoint=str(number),
                experts=frozenset([EXPERT]),
                serving=True,
                load=Load(running=view.told, step_time=self._step_s[number]),
                outstanding=view.own,
                untold=0 if self._rule == "larger" else view.own - view.own_then,
                max_running=64,
            )
            for number, view in enumerate(self._views[worker])
        ]
        chance = self._random.random() if self._rule == "two choices" else None
        decision = select({}, Roster(known), POLICY, Wish(pinned=EXPERT, chance=chance))
        return int(decision.chosen.endpoint)
