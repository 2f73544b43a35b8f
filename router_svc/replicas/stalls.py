"""Replicas that hang: silent, or alive and without a step, while requests wait there.

Judged by one sweep over the fleet, not by a timer for each token. A replica is given up only where another could take
what it has: otherwise its requests wait, since a late answer is better than none, and their deadlines decide.
"""

import asyncio
import time
from collections.abc import Callable, Collection

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.deadlines import seconds
from mesh_wire.open_session import Pulse
from router_svc.replicas.replica import Replica

SWEEP_S = 0.2  # between two looks
LATE_S = 0.5  # a sweep that comes later than this says that it was we who hung
STEPS = 8  # so many times as long as it usually does may a step take
FIRST_TOKEN = 4  # so many times the patience with a next token is that with a first one


def stall_of(
    pulse: Pulse, load: Load, load_at: float | None, context_length: int, now: float, stall_s: float, since: float
) -> str:
    """Return why a replica seems to hang, in words; empty: it does not.

    Args:
        pulse: how the requests under way there fare.
        load: its latest report, of the time `load_at`; None: it has told none.
        context_length: tokens of the longest prompt that it could be reading.
        now, since: seconds of `time.monotonic`; what was before `since` was not looked at.
        stall_s: how long it may be silent, or make no step, if nothing known of it explains more.
    """
    silent_s = now - max(pulse.heard_at, load_at or since, since)
    if silent_s > stall_s:
        return f"it has been silent for {silent_s:.1f} s"
    if load.tokens_per_second:
        return ""
    unread = load.queued_prompt_tokens + (context_length if pulse.asked_at is not None or load.waiting else 0)
    patience_s = max(stall_s, STEPS * seconds(load.step_time) + unread * seconds(load.prompt_token_time))
    if pulse.stepped_at is not None:
        still_s = now - max(pulse.stepped_at, since)
        return f"it has made no step for {still_s:.1f} s" if still_s > patience_s else ""
    if pulse.asked_at is not None and load.HasField("prompt_token_time"):  # else: it may be starting for all we know
        still_s = now - max(pulse.asked_at, since)
        return f"it has begun nothing for {still_s:.1f} s" if still_s > FIRST_TOKEN * patience_s else ""
    return ""


class StallWatch:
    """Looks after all replicas of a fleet."""

    def __init__(self, replicas: Callable[[], Collection[Replica]], stall_s: float) -> None:
        """`stall_s`: see `stall_of`; 0: nothing is ever given up."""
        self._replicas = replicas
        self._stall_s = stall_s
        self._since = time.monotonic()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while self._stall_s:
            due = time.monotonic() + SWEEP_S
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            if now > due + LATE_S:
                self._since = now
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """Give up the replicas that hang, where one that does not could take over; else it may be we who hang."""
        hanging = {replica: why for replica in self._replicas() if (why := self._why(replica, now))}
        sound = [replica for replica in self._replicas() if replica not in hanging]
        for replica, why in hanging.items():
            if any(self._could_take(other, replica) for other in sound):
                replica.give_up(why)

    def _why(self, replica: Replica, now: float) -> str:
        pulse = replica.pulse() if replica.outstanding else None
        if pulse is None:
            return ""
        context_length = replica.description.context_length
        return stall_of(pulse, replica.load, replica.told_at, context_length, now, self._stall_s, self._since)

    @staticmethod
    def _could_take(other: Replica, replica: Replica) -> bool:
        return not other.trouble and bool(other.experts & replica.experts)
