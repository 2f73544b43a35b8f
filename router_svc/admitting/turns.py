"""Whose turn it is: requests wait here while the replicas that could answer them are full, and go in a fair order.

An engine is given what it has places for, and a little more. What waits, waits here, because here it can still be put
in order, and refused; a queue is never longer than what a fleet under nine tenths of its load has from time to time.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from expertmesh.v1.generation_pb2 import GenerateRequest, Priority, Usage
from mesh_wire.admission_section import PRIORITIES, AdmissionSection
from mesh_wire.appointments import Appointments
from mesh_wire.asked import Asked
from mesh_wire.errors import Busy, MeshError
from mesh_wire.outlets import Outlet
from router_svc.admitting.callers import Account, Accounts
from router_svc.admitting.fair_queue import Stand
from router_svc.admitting.pools import Pool, Pools, has_room
from router_svc.admitting.prices import Prices, prompt_tokens
from router_svc.choosing.decision import Decision
from router_svc.replicas.fleet import Fleet

LOOK_EVERY_S = 0.02  # while requests wait: room also comes from requests of others, which only load reports tell
# A request waits so many times what it may expect, or so much longer: others may go before it, and engines may falter.
HELD_TIMES, PATIENCE_S = 2.0, 2.0
CLASSES = (Priority.PRIORITY_INTERACTIVE, Priority.PRIORITY_STANDARD, Priority.PRIORITY_BATCH)
HEADS = 4  # requests that are asked in vain, in one look at a queue, whether there is room for them

_NOBODY: Mapping[str, float] = MappingProxyType({})

Waited = Callable[[float, str, str], None]  # seconds, class, how it ended: `went` or a reason


@dataclass(eq=False, slots=True)
class Turn:
    """One request on its way through admission."""

    request: GenerateRequest
    asked: Asked
    account: Account
    stand: Stand
    rank: int
    pool: Pool | None = None  # where it stood when it went; None: it did not go
    usage: Usage | None = None  # of its answer, once that is whole

    @property
    def priority(self) -> str:
        return PRIORITIES[self.rank]


@dataclass(eq=False, slots=True)
class _Waiting:
    turn: Turn
    pool: Pool
    choose: Callable[[], Decision]
    decided: asyncio.Future[Decision]


class Turns:
    """Lets the requests of one router process in, and has them wait for their turn."""

    def __init__(
        self,
        fleet: Fleet,
        section: AdmissionSection,
        *,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        waited: Waited = lambda seconds, priority, outcome: None,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._waited = waited
        self._accounts = Accounts(section.callers, section.others, workers)
        self._appointments = Appointments(chance)
        self._pools = Pools(lambda: fleet.roster, section)
        self._prices = Prices()
        self._waiting: dict[Stand, _Waiting] = {}
        self._look: asyncio.TimerHandle | None = None
        self._look_at = math.inf  # seconds of the loop's clock

    @property
    def waiting(self) -> list[int]:
        """How many requests of each class wait."""
        counts = [0] * len(PRIORITIES)
        for each in list(self._waiting.values()):
            counts[each.turn.rank] += 1
        return counts

    @contextmanager
    def admitted(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> Iterator[Turn]:
        """Let a request in, for as long as the block runs; it has still to wait for its turn.

        Raises:
            Busy: it is refused: its caller asks for too much, or there is a queue already that is too long for it.
        """
        turn, guessed = self._let_in(request, asked)
        account, stand = turn.account, turn.stand
        account.begin(guessed, self._clock())
        try:
            yield turn
        finally:
            spent: float | None = None
            if turn.usage is not None:
                spent = self._prices.learn(turn.usage)
            elif turn.pool is not None:  # what a failed answer has cost by then
                spent = float(prompt_tokens(request) + outlet.tally.tokens)
            account.end(guessed, spent, self._clock())
            if turn.pool is not None and spent is not None:
                turn.pool.queue.settle(stand, turn.rank, spent)
            self._look_soon(0.0)

    def check(self, request: GenerateRequest, caller: str) -> None:
        """Count a request that is decided on here, and answered elsewhere.

        Raises:
            Busy: CALLER_RATE; its caller asks for too much.
        """
        now = self._clock()
        account = self._accounts.of(caller, now)
        if account.unlimited:
            return
        guessed = self._prices.guess(request)
        account.check(guessed, now)
        account.begin(guessed, now)
        account.end(guessed, guessed, now)

    def _let_in(self, request: GenerateRequest, asked: Asked) -> tuple[Turn, float]:
        now, guessed = self._clock(), self._prices.guess(request)
        account = self._accounts.of(asked.caller, now)
        account.check(guessed, now)
        rank = account.rank(request.priority)
        stand = Stand(asked.caller, account.limits.weight, guessed)
        turn = Turn(request, asked, account, stand, rank)
        request.priority = CLASSES[rank]  # as engines are told it
        if self._waiting:
            # What another router had begun is not begun anew: its caller has read half of it.
            stand.first = self._appointments.keep(request.request_id, now) or bool(request.resume.token_ids)
            self._refuse_early(turn, now)
        return turn, guessed

    def _refuse_early(self, turn: Turn, now: float) -> None:
        """Refuse a request before it is classified, if whatever that could say it would be refused after."""
        expert = turn.request.expert
        pools = [self._pools.of(expert, now)] if expert else self._pools.of_all(now)
        if not pools or not all(pool.queue and self._trouble(turn, pool) for pool in pools):
            return
        raise self._refusal(turn, min(pools, key=lambda pool: pool.wait_s(turn.stand, turn.rank)), now)

    def queued(self, turn: Turn) -> Mapping[str, float]:
        """Return in how many seconds it would be a request's turn, for each expert before which others wait.

        Where it waits itself it is as good as there: it would not join anew.
        """
        if not self._waiting:
            return _NOBODY
        waiting, now = self._waiting.get(turn.stand), self._clock()
        own = None if waiting is None else waiting.pool
        pools = ((expert, self._pools.of(expert, now)) for expert in self._fleet.roster.served)
        return {expert: pool.wait_s(turn.stand, turn.rank) for expert, pool in pools if pool.queue and pool is not own}

    async def come(self, turn: Turn, decision: Decision, choose: Callable[[], Decision]) -> Decision:
        """Wait until a request is to go; returns where. Nothing may be awaited before it is asked for there.

        Args:
            decision: where it would go now.
            choose: decides anew.

        Raises:
            Busy: it would have to wait too long, or had to.
            MeshError: nobody can answer it any more.
        """
        now = self._clock()
        pool = self._pools.of(decision.expert, now)
        if not pool.queue:
            if not has_room(decision.chosen):  # the choice is drawn among those that are about as good
                decision = choose()
            if has_room(decision.chosen):
                return self._go(turn, pool, decision)
        if self._trouble(turn, pool):
            raise self._refusal(turn, pool, now)
        waiting = _Waiting(turn, pool, choose, asyncio.get_running_loop().create_future())
        pool.queue.put(turn.stand, turn.rank)
        self._waiting[turn.stand] = waiting
        self._look_soon(LOOK_EVERY_S)
        return await self._its_turn(waiting, now)

    async def _its_turn(self, waiting: _Waiting, since: float) -> Decision:
        turn, pool, outcome = waiting.turn, waiting.pool, "left"
        try:
            async with asyncio.timeout(max(HELD_TIMES * pool.longest_s, pool.longest_s + PATIENCE_S)):
                decision = await waiting.decided
            outcome = "went"
            return decision
        except TimeoutError:
            if waiting.decided.done() and not waiting.decided.cancelled():  # both at once
                outcome = "went"
                return waiting.decided.result()
            refusal = self._refusal(turn, pool, self._clock())
            outcome = refusal.reason
            raise refusal from None
        finally:
            if self._waiting.pop(turn.stand, None) is not None:
                pool.queue.remove(turn.stand, turn.rank)
            elif (decided := waiting.decided).done() and not decided.cancelled() and decided.exception() is None:
                self._fleet.replica(decided.result().chosen.endpoint).release()  # it is held by whoever asks, from here
            self._waited(self._clock() - since, turn.priority, outcome)

    def _go(self, turn: Turn, pool: Pool, decision: Decision) -> Decision:
        turn.pool = pool
        pool.queue.charge(turn.stand, turn.rank)
        return decision

    def _look_soon(self, after_s: float) -> None:
        """See to it that the queues are looked at, if anybody waits."""
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + after_s
        if self._look is not None:
            if self._look_at <= at:
                return
            self._look.cancel()
        self._look, self._look_at = loop.call_later(after_s, self._look_now), at

    def _look_now(self) -> None:
        self._look = None
        for pool in self._pools.waiting:
            while self._next_goes(pool):
                pass
        self._look_soon(LOOK_EVERY_S)

    def _next_goes(self, pool: Pool) -> bool:
        """Let the first request go for which there is room; False: there is none for those before."""
        for at, (stand, rank) in enumerate(pool.queue.heads()):
            waiting = self._waiting[stand]
            try:
                decision = waiting.choose()
            except MeshError as nobody:
                del self._waiting[stand]
                pool.queue.remove(stand, rank)
                if not waiting.decided.done():
                    waiting.decided.set_exception(nobody)
                return True
            if has_room(decision.chosen):
                del self._waiting[stand]
                pool.queue.go(stand, rank)
                if not waiting.decided.done():  # else: its caller has left, and takes nothing any more
                    waiting.turn.pool = pool
                    self._fleet.replica(decision.chosen.endpoint).hold()
                    waiting.decided.set_result(decision)
                return True
            if at + 1 == HEADS:
                break
        return False

    def _trouble(self, turn: Turn, pool: Pool) -> str:
        """Return the reason for which a request cannot wait; empty: it can."""
        wait_s = pool.wait_s(turn.stand, turn.rank)
        left_s = turn.asked.deadline.left_s()
        if left_s is not None and wait_s > left_s:
            return "DEADLINE_TOO_SHORT"
        return "EXPERT_BUSY" if wait_s > pool.longest_s * (HELD_TIMES if turn.stand.first else 1) else ""

    def _refusal(self, turn: Turn, pool: Pool, now: float) -> Busy:
        """Refuse a request, and give it a time to come back."""
        wait_s, left_s = pool.wait_s(turn.stand, turn.rank), turn.asked.deadline.left_s()
        reason = self._trouble(turn, pool) or "EXPERT_BUSY"
        apart_s = pool.every_s * pool.queue.rivalry(turn.stand, turn.rank)
        within_s = min(pool.longest_s, math.inf if left_s is None else left_s)
        pause_s = self._appointments.give(
            turn.request.request_id,
            turn.asked.caller,
            now,
            soonest_s=max(0.0, wait_s - within_s),
            apart_s=apart_s,
        )
        words = f"the wait for a place would be {wait_s:.2g} s"
        if reason == "DEADLINE_TOO_SHORT":
            words += f", and {left_s or 0:.2g} s are left"
        return Busy(
            words,
            reason=reason,
            retry_after_s=pause_s,
            tokens_sent="0",
            request_id=turn.request.request_id,
            expected_wait_ms=str(round(wait_s * 1e3)),
        )
