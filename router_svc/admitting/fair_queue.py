"""Fair order between callers: start-time fair queueing.

Each caller's requests stand in a line of their own. A line has a mark, in tokens per weight, that moves on by what its
requests cost as they go; the line with the lowest mark goes next. So each caller with a line gets a share by its
weight, whatever the others ask for, and what one leaves, the others share. A line's mark begins where the queue stands,
a little before for a caller that was away, so that short gaps in what it asks for do not cost it its share.

Source:
    Start-time fair queueing, Goyal, Vin and Cheng 1997. Here a mark is set when a request goes, not when it comes, so
    that requests may leave a line from its midst, and the front may be joined.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

CREDIT = 12.0  # requests by which a caller that was away may be ahead of its share
_SWEEP = 64  # lines that are kept without requests, at least


@dataclass(eq=False, slots=True)
class Stand:
    """One request in a queue."""

    caller: str
    weight: float  # above 0
    cost: float  # tokens, about; above 0
    first: bool = False  # goes before what its caller has in line already


@dataclass(eq=False, slots=True)
class _Line:
    mark: float
    weight: float
    stands: deque[Stand] = field(default_factory=deque)


class FairQueue:
    """Lines of one class."""

    def __init__(self) -> None:
        self._mark = 0.0  # of the latest that went
        self._lines: dict[str, _Line] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, stand: Stand) -> None:
        """Let a request join its caller's line."""
        line = self._line(stand)
        if stand.first:
            ahead = sum(other.first for other in line.stands)  # these came first
            line.stands.insert(ahead, stand)
        else:
            line.stands.append(stand)
        self._waiting += 1

    def remove(self, stand: Stand) -> None:
        """Let a request leave, wherever it stands, without having gone."""
        self._lines[stand.caller].stands.remove(stand)
        self._waiting -= 1

    def heads(self) -> Iterator[Stand]:
        """Yield the first request of each line, in the order in which they would go."""
        lines = [line for line in self._lines.values() if line.stands]
        for line in sorted(lines, key=lambda line: line.mark):
            yield line.stands[0]

    def go(self, stand: Stand) -> None:
        """Let a request that waits go, and its caller pay for it."""
        self.remove(stand)
        self.charge(stand)

    def charge(self, stand: Stand) -> None:
        """Note that a request goes that did not have to wait."""
        line = self._line(stand)
        self._mark = max(self._mark, line.mark)
        line.mark += stand.cost / line.weight

    def settle(self, stand: Stand, cost: float) -> None:
        """Correct what a request that went has cost."""
        if (line := self._lines.get(stand.caller)) is not None:
            line.mark += (cost - stand.cost) / line.weight

    def ahead(self, stand: Stand) -> int:
        """Count the requests that are likely to go before one that joins now.

        These are those that would, if no more came; or, where that is more, half of those that would if every caller
        who was here lately had a line: who comes later may well go before.
        """
        line = self._lines.get(stand.caller)
        own = () if line is None else [each for each in line.stands if each.first or not stand.first]
        mark = self._mark_of(stand) + sum(each.cost for each in own) / stand.weight
        before = len(own)
        for other in self._lines.values():
            if other is line:
                continue
            theirs = other.mark
            for each in other.stands:
                if theirs > mark:
                    break
                before += 1
                theirs += each.cost / other.weight
        rounds = 1 + (mark - self._mark) * stand.weight / stand.cost  # in which each caller has one that goes
        return max(before, math.ceil(rounds * self._lately(stand) / 2) - 1)

    def _lately(self, stand: Stand) -> float:
        """Return the weight of all callers that were here lately, this one included, beside its own."""
        begins = self._mark - CREDIT * stand.cost / stand.weight
        others = (
            line.weight
            for name, line in self._lines.items()
            if (line.stands or line.mark > begins) and name != stand.caller
        )
        return (sum(others) + stand.weight) / stand.weight

    def rivalry(self, stand: Stand) -> float:
        """Return of how many requests that go one is this caller's, if it has a line."""
        others = sum(line.weight for name, line in self._lines.items() if line.stands and name != stand.caller)
        return (others + stand.weight) / stand.weight

    def _mark_of(self, stand: Stand) -> float:
        """Return the mark of a caller's line as it is, or would be when it begins."""
        line = self._lines.get(stand.caller)
        if line is not None and line.stands:
            return line.mark
        begins = self._mark - CREDIT * stand.cost / stand.weight
        return begins if line is None else max(line.mark, begins)

    def _line(self, stand: Stand) -> _Line:
        """Return a caller's line, brought up to now if it is empty."""
        line, mark = self._lines.get(stand.caller), self._mark_of(stand)
        if line is None:
            if len(self._lines) >= 2 * self._waiting + _SWEEP:
                self._sweep()
            line = self._lines[stand.caller] = _Line(mark, stand.weight)
        line.mark, line.weight = mark, stand.weight
        return line

    def _sweep(self) -> None:
        """Forget the callers that have nothing here; those ahead of their share, only the half that is least so."""
        idle = sorted((line.mark, name) for name, line in self._lines.items() if not line.stands)
        for at, (mark, name) in enumerate(idle):
            if mark <= self._mark or at < len(idle) // 2:
                del self._lines[name]
