"""Who calls, as handlers see it: the caller of the call that they answer, and what it may do."""

import math
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from math import ceil
from time import time as now  # seconds since the epoch; a name of its own, for tests to replace

from mesh_wire.auth.sections import Rights
from mesh_wire.errors import Forbidden, Unauthenticated


class Kind(Enum):
    """How a caller came to be believed."""

    KNOWN = auto()  # by a certificate or a token of its own
    ANONYMOUS = auto()  # it said nothing of itself, and may do so
    PEER = auto()  # a router of this mesh: what it says of its own callers is believed


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a caller may ask for at a time, of one process."""

    max_in_flight: int | None = None  # requests under way; None: as many as the process takes


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in."""

    name: str  # empty: anonymous
    kind: Kind
    experts: frozenset[str] | None = None  # that it may ask; None: all
    rpcs: frozenset[str] | None = None  # that it may use; None: all
    limits: Limits = Limits()
    until: float = math.inf  # seconds since the epoch at which it must have shown itself anew, for anything new


_CALLING: ContextVar[Caller | None] = ContextVar("calling", default=None)


def calling() -> Caller | None:
    """Return who makes the call that is being answered, in its handler and in the tasks that this began.

    None where nobody is asked who calls.
    """
    return _CALLING.get()


def note_calling(caller: Caller | None) -> None:
    """Note who makes the call that the current task answers: each call has a task of its own."""
    _CALLING.set(caller)


def caller_of(name: str, kind: Kind, rights: Rights, *, workers: int = 1, until: float = math.inf) -> Caller:
    """Return a caller with the rights that the mesh file gives it, of which each worker process has an equal share."""
    most = rights.max_in_flight
    return Caller(
        name,
        kind,
        None if rights.experts is None else frozenset(rights.experts),
        None if rights.rpcs is None else frozenset(rights.rpcs),
        Limits(None if most is None else ceil(most / workers)),
        until,
    )


def begins(claimed: str) -> tuple[Caller | None, str]:
    """Return who asks for an answer that is about to begin, and its name.

    Args:
        claimed: the name that came with the request: a router's word for its own callers, and else nobody's.

    Raises:
        Unauthenticated: TOKEN_EXPIRED; a session may outlive the token that it was opened with.
    """
    caller = calling()
    if caller is None:
        return None, claimed
    if caller.until <= now():
        raise expired_token()
    return caller, claimed if caller.kind is Kind.PEER else caller.name


def expired_token() -> Unauthenticated:
    return Unauthenticated("the token's time is over", reason="TOKEN_EXPIRED", tokens_sent="0")


def may_ask(expert: str, allowed: Collection[str] | None) -> None:
    """Raise Forbidden EXPERT_NOT_ALLOWED if an expert is not among those allowed; None allows all.

    Whether there is such an expert at all is not told.
    """
    if allowed is not None and expert not in allowed:
        raise Forbidden(f"this caller may not ask {expert}", reason="EXPERT_NOT_ALLOWED", field="expert", expert=expert)
