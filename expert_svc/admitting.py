"""Whom an engine takes: admission by the wait that its places, its cache and the prompts before it let expect."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from expert_svc.engine import Engine
from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.admission import Admission
from mesh_wire.appointments import Appointments
from mesh_wire.asked import Asked
from mesh_wire.errors import Busy
from mesh_wire.settings import ExpertSection
from mesh_wire.waiting import place_wait_s, places_of, terms_of

SHORTEST_WAIT_S = 0.25  # for a place, that is never too long by itself
READING_S = 5.0  # of prompts that wait to be read, at most, where the settings name no time
KEPT_TIMES = 2.0  # so many times as long may those wait who come back when they were told to


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request that comes now may expect, in seconds."""

    place_s: float  # until it has a place
    reading_s: float  # until the prompts before it are read
    every_s: float  # in which a place comes free, while all are taken

    @property
    def wait_s(self) -> float:
        return self.place_s + self.reading_s


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a request may wait; see the fields of the same names in the settings."""

    queue: int
    max_wait_s: float | None = None

    def over_s(self, outlook: Outlook, times: float = 1.0) -> float:
        """Return by how many seconds a wait is too long, if it may be so many times as long; 0 or less: it is not."""
        if self.max_wait_s is not None:
            return outlook.wait_s - times * self.max_wait_s
        longest_s = times * max(SHORTEST_WAIT_S, self.queue * outlook.every_s)
        return max(outlook.place_s - longest_s, outlook.reading_s - times * READING_S)


class EngineAdmission(Admission):
    """Places of an engine, and a bound on the wait for them. A full house refuses at once."""

    def __init__(
        self,
        engine: Engine,
        section: ExpertSection,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(section.max_in_flight, reason="EXPERT_BUSY")
        self._board = engine.board
        self._max_running = engine.description.max_running
        self._bounds = Bounds(section.queue, section.max_wait_s)
        self._clock = clock
        self._appointments = Appointments(chance)

    def outlook(self) -> Outlook:
        """Return what a request that comes now may expect."""
        terms, places = terms_of(self._board.latest), self._max_running
        held = max(terms.held, self.taken)  # some are let in, and not with the engine yet
        return Outlook(
            place_wait_s(terms, held, places),
            terms.reading_s,
            place_wait_s(terms, places_of(terms, places), places),
        )

    @contextmanager
    def place_for(self, request: GenerateRequest, asked: Asked) -> Iterator[None]:
        """Hold a place for a request for as long as the block runs.

        Raises:
            Busy: EXPERT_BUSY, every place is taken or the wait for one is too long; DEADLINE_TOO_SHORT, it is longer
                than what is left of the deadline.
        """
        outlook = self.outlook()
        if outlook.wait_s and self._max_running:  # else: it does not tell what it has
            self._check(outlook, request, asked)
        with self.place():
            yield

    def _check(self, outlook: Outlook, request: GenerateRequest, asked: Asked) -> None:
        now, left_s, name = self._clock(), asked.deadline.left_s(), request.request_id
        # The rest of an answer is not refused for a queue: its caller has read the beginning.
        kept = self._appointments.keep(name, now) or bool(request.resume.token_ids)
        if left_s is not None and outlook.wait_s > left_s:
            reason, over_s = "DEADLINE_TOO_SHORT", outlook.wait_s - left_s
        else:
            reason, over_s = "EXPERT_BUSY", self._bounds.over_s(outlook, KEPT_TIMES if kept else 1.0)
            if over_s <= 0:
                return
        self.refused += 1
        raise Busy(
            f"the wait for a first token would be {outlook.wait_s:.2g} s",
            reason=reason,
            retry_after_s=self._appointments.give(name, asked.caller, now, soonest_s=over_s, apart_s=outlook.every_s),
            tokens_sent="0",
            request_id=request.request_id,
            expected_wait_ms=str(round(outlook.wait_s * 1e3)),
        )
