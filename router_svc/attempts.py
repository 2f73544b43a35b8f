"""What follows an attempt that failed: another one, or the end. Decisions alone; whoever asks carries them out.

Why there can be no storm, each on its own ground:
  - An answer is asked for once more before its first token, and moved at most `MOVES` times after it.
  - What ends with its replica, or with its connection, is moved freely: a replica can lose no more answers than it
    had, and gets no new ones before it serves again.
  - A refusal is tried again only while the budget lasts, which fills with requests: for a hundred requests, twenty.
  - A server that names a pause is not asked before it is over, and one that wants no second try gets none.
"""

from dataclasses import dataclass
from enum import Enum, auto

from mesh_wire.errors import Busy, MeshError, Unavailable
from mesh_wire.resuming import unsupported

MOVES = 3
PUSHBACK, NEVER = "pushback", "never"  # metadata of an error whose server wants no second try
# Why a replica gave up what it had, as opposed to refusing it.
LOSSES = frozenset({"EXPERT_LOST", "EXPERT_STALLED", "ENGINE_DEAD", "DRAINING"})
# A router behind us has tried already, and this request is what is wrong.
FINAL = frozenset({"NO_EXPERT", "RESUME_UNSUPPORTED"})


class RetryBudget:
    """Second tries that refusals may cost, of all requests of a router together. Every request adds a part of one."""

    def __init__(self, *, share: float = 0.2, most: float = 100.0, at_first: float = 10.0) -> None:
        """Args:
        share: tries that a request adds.
        most: tries that can be saved up.
        at_first: tries that there are before there was any request.
        """
        self._share = share
        self._most = most
        self._left = at_first

    @property
    def left(self) -> float:
        return self._left

    def deposit(self) -> None:
        """Count a new request."""
        self._left = min(self._most, self._left + self._share)

    def withdraw(self) -> bool:
        """Take one try out; False where there is none."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Then(Enum):
    """What comes after an attempt."""

    END = auto()
    AGAIN = auto()  # from the beginning: its caller has nothing yet
    RESUME = auto()  # from where it was cut off, by the same expert


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an answer stood when an attempt at it failed."""

    tokens: int  # that its caller has
    begun: bool  # whether this attempt brought any of it
    attempts: int  # so far, this one included, that began without a token, ...
    moves: int  # ... and after some
    obstacle: str  # why it cannot be resumed: a field of the request; empty: it can
    more: bool  # whether another replica of the expert could take it
    left_s: float | None  # until its deadline; None: it has none


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes now."""

    then: Then
    error: MeshError  # with which the answer ends, if it does
    pause_s: float = 0.0  # before the next attempt
    costs: bool = False  # whether that has to be paid for from the budget
    same_too: bool = False  # whether the replica that failed may be asked again


def verdict(error: MeshError, standing: Standing) -> Verdict:
    """Decide what follows an attempt that ended with `error`; the budget, if it `costs`, is the caller's to ask."""
    end = Verdict(Then.END, error)
    if not _is_another_s_chance(error, standing):
        return end
    if not standing.tokens:
        if standing.begun or standing.attempts >= 2 or (isinstance(error, Busy) and not standing.more):
            return end
        then = Then.AGAIN
    elif standing.obstacle:
        return Verdict(Then.END, unsupported(standing.obstacle, standing.tokens))
    elif standing.moves >= MOVES:
        return end
    else:
        then = Then.RESUME
    pause_s, same_too = _pause_s(error, standing)
    if standing.left_s is not None and pause_s >= standing.left_s:
        return end
    return Verdict(then, error, pause_s, error.reason not in LOSSES, same_too)


def _is_another_s_chance(error: MeshError, standing: Standing) -> bool:
    if isinstance(error, Busy):
        return not standing.begun
    if error.code is not Unavailable.code or error.reason in FINAL:
        return False
    cause = error.__cause__
    wanted = [one.facts.get(PUSHBACK) for one in (error, cause) if isinstance(one, MeshError)]
    return NEVER not in wanted


def _pause_s(error: MeshError, standing: Standing) -> tuple[float, bool]:
    """Return how long to wait, and whether the same replica may be asked after that.

    The pause of a busy expert is about its own places: another replica need not wait for these.
    """
    cause = error.__cause__
    named_s = error.retry_after_s
    if named_s is None and isinstance(cause, MeshError):
        named_s = cause.retry_after_s
    if isinstance(error, Busy):
        return (0.0, False) if standing.more else (named_s or 0.0, True)
    return max(0.0, named_s or 0.0), False
