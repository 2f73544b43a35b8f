"""When to come back: refused requests are given times, one after the other, at which there will be room for them.

A time to retry that looked at the queue alone would be the same for all who are refused now, and they would find a full
house again, together. Here each caller's times are as far apart as its places come free, and a request that keeps its
time is let in before new ones. Nothing is kept free for it meanwhile: who does not come costs nobody a place.
"""

from collections import OrderedDict
from collections.abc import Callable

EARLY_S = 0.05  # clocks and pauses are not exact: who comes so much too early keeps its appointment
LATE_S, LATE_SHARE = 2.0, 0.5  # and who comes so much later, or by such a share of the pause
SPACING = 1.1  # times are so much further apart than places come free, so that a queue can shrink
LONGEST_S = 60.0  # that anybody is sent away for
KEPT = 20_000  # appointments that are remembered


class Appointments:
    """Times to come back, by request id. Times are seconds of any one clock."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` draws from [0, 1)."""
        self._chance = chance
        self._due: OrderedDict[str, tuple[float, float]] = OrderedDict()  # request id -> when, until when
        self._booked: dict[str, float] = {}  # caller -> its latest time

    def give(self, request_id: str, caller: str, now: float, *, soonest_s: float, apart_s: float) -> float:
        """Return in how many seconds a refused request is to come back.

        Args:
            soonest_s: seconds until there may be room.
            apart_s: seconds in which one of this caller's requests can be taken up.
        """
        self._lapse(now)
        apart_s *= SPACING
        at = max(now + soonest_s, self._booked.get(caller, now)) + apart_s
        at = min(at, now + LONGEST_S)
        self._booked[caller] = at
        pause_s = at - now + apart_s * self._chance()  # so that equals do not come as one
        self._due[request_id] = (now + pause_s - EARLY_S, now + pause_s + LATE_S + LATE_SHARE * pause_s)
        self._due.move_to_end(request_id)
        if len(self._due) > KEPT:
            self._due.popitem(last=False)
        return pause_s

    def keep(self, request_id: str, now: float) -> bool:
        """Whether a request comes as it was told to; its appointment is over then."""
        due, until = self._due.get(request_id, (0.0, -1.0))
        if not due <= now <= until:
            return False
        del self._due[request_id]
        return True

    def _lapse(self, now: float) -> None:
        """Forget those who did not come. The oldest are looked at, a few each time: it has no hurry."""
        for _ in range(2):
            if not self._due:
                break
            request_id = next(iter(self._due))
            if self._due[request_id][1] >= now:
                break
            del self._due[request_id]
        if len(self._booked) > KEPT:
            later = {caller: at for caller, at in self._booked.items() if at > now}
            self._booked = later if len(later) <= KEPT // 2 else {}  # else: names that somebody makes up
