"""A second replica for an answer whose first token is late: whoever is first gives it, the other is cancelled.

Off, unless the router or the request asks for it. Late is what 95 in 100 first tokens of the expert lately were not,
so about one request in twenty is hedged; the budget holds when all are late, as they are when the fleet is full.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, RouteChosen, TokenLogprobs
from mesh_wire.deadlines import seconds
from mesh_wire.outlets import Outlet, Tally
from mesh_wire.resuming import Delivered
from router_svc.activity import Ledger
from router_svc.attempts import RetryBudget
from router_svc.choosing.decision import Decision
from router_svc.course import Course

SHARE = 0.05  # hedges for each request that may be hedged
FEWEST = 20  # first tokens from which on their 95th percentile means something
FRESH_S = 1.0  # so long is it used before it is worked out anew


class Hedges:
    """Says when a first token is late, and whether there may be one more hedge."""

    def __init__(self, ledger: Ledger, *, always: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`always`: whether requests that do not say are hedged."""
        self._always = always
        self._budget = RetryBudget(share=SHARE, most=5.0, at_first=1.0)
        self._clock = clock
        self._ledger = ledger
        self._late: dict[str, tuple[float, float]] = {}  # expert -> (when worked out, late after so long)

    def late_after_s(self, request: GenerateRequest, expert: str) -> float | None:
        """Return after how many seconds a first token of `expert` is late; None: this request is not hedged."""
        if not (request.hedge if request.HasField("hedge") else self._always):
            return None
        self._budget.deposit()
        now = self._clock()
        if (known := self._late.get(expert)) is not None and now - known[0] < FRESH_S:
            return known[1]
        lately = self._ledger.lately(expert)
        if lately.first_tokens < FEWEST:
            return None
        late_s = seconds(lately.first_token_p95)
        self._late[expert] = now, late_s
        return late_s

    def one_more(self) -> bool:
        """Whether the budget allows a hedge, which this takes from it."""
        return self._budget.withdraw()


class Lane:
    """One of the two ways to an answer: the outlet and the relay of one replica."""

    def __init__(self, race: "Race", outlet: Outlet, course: Course, decision: Decision, chosen: RouteChosen) -> None:
        self.decision = decision
        self.delivered = Delivered()
        self.delivered.attempt = course.delivered.attempt
        self.task: asyncio.Task[None] | None = None
        self.wins = False
        self._race = race
        self._outlet = outlet
        self._course = course
        self.chosen = chosen

    @property
    def tally(self) -> Tally:
        return self._outlet.tally

    def begin(self) -> None:
        if not self._race.is_won_by(self):
            return
        self._course.take_up(self.decision, self.chosen, self.delivered)
        self._course.begin()

    def end(self, finished: Finished) -> None:
        if self.wins:
            self._course.end(finished)

    def route(self, chosen: RouteChosen) -> None:
        """Never called: the course tells the route."""

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        if self.wins:
            self._outlet.delta(text, token_ids, logprobs)

    def finished(self, finished: Finished) -> None:
        if self.wins:
            self._outlet.finished(finished)


class Race:
    """One answer with a hedge."""

    def __init__(self, ask: Callable[[Lane], Coroutine[Any, Any, None]]) -> None:
        """`ask` has the lane's replica answer into it; raises MeshError."""
        self.hedged = False
        self._ask = ask
        self._lanes: list[Lane] = []

    def is_won_by(self, lane: Lane) -> bool:
        """Whether this lane has begun first; the other one is cancelled then."""
        if any(each.wins for each in self._lanes):
            return lane.wins
        lane.wins = True
        for other in self._lanes:
            if other is not lane and other.task is not None:
                other.task.cancel()
        return True

    async def run(self, first: Lane, late_s: float, second: Callable[[], Lane | None]) -> None:
        """Ask the first, and, where it is late, whom `second` says.

        Raises:
            MeshError: the winner's; where nobody has won, the first one's.
        """
        tasks = [self._start(first)]
        try:
            await asyncio.wait(tasks, timeout=late_s)
            if not tasks[0].done() and not first.wins and (lane := second()) is not None:
                self.hedged = True
                tasks.append(self._start(lane))
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            failures = [None if task.cancelled() else task.exception() for task in tasks]  # seen, whoever wins
        for lane, failure in zip(self._lanes, failures, strict=True):
            if failure is not None and (lane.wins or not any(each.wins for each in self._lanes)):
                raise failure

    def _start(self, lane: Lane) -> "asyncio.Task[None]":
        self._lanes.append(lane)
        lane.task = asyncio.create_task(self._ask(lane))
        return lane.task
