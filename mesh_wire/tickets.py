"""Tickets: a router's permission to ask an expert, so that callers may go around the router and nobody else may.

A ticket is a JSON Web Token, signed with a key that the routers and experts of a mesh share. It names one expert of one
replica and the model behind it, the request's deadline, and a number of its own with which it is good for one request.
A router's own session to a replica is opened with a ticket for all that it will ask.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, Forbidden, Unauthenticated
from mesh_wire.ticket_keys import Keys

ALGORITHM = "HS256"
CLOCKS_APART_S = 5.0  # what two machines' clocks may differ by
REMEMBERED = 200_000  # tickets that an expert knows to be used; 7,000 a second at the usual 30 s, some 30 MB
SESSION, REQUEST = "session", "request"  # what a ticket is for


class TicketOffice:
    """Gives tickets: a router's part."""

    def __init__(self, keys: Keys, lifetime_s: float) -> None:
        self._name, self._secret = next(iter(keys.secrets.items()))
        self._lifetime_s = lifetime_s

    def for_request(self, replica: str, expert: str, model: str, deadline: Deadline) -> str:
        """Return a ticket for one request.

        Args:
            model: the adapter behind the expert, or the base model's name where it has none.
        """
        claims: dict[str, Any] = {"use": REQUEST, "expert": expert, "model": model}
        if (left_s := deadline.left_s()) is not None:
            claims["deadline"] = round(time.time() + left_s, 3)
        return self._sign(replica, claims)

    def for_session(self, replica: str) -> str:
        """Return a ticket that opens one session to a replica, for any number of requests."""
        return self._sign(replica, {"use": SESSION})

    def _sign(self, replica: str, claims: dict[str, Any]) -> str:
        claims |= {"aud": replica, "exp": time.time() + self._lifetime_s, "jti": uuid.uuid4().hex}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM, headers={"kid": self._name})


class TicketGate:
    """Takes tickets: an expert's part.

    Args:
        models: the experts served here, with the model behind each.
        now: seconds since the epoch.
    """

    def __init__(
        self, keys: Keys, replica: str, models: Mapping[str, str], now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._replica = replica
        self._models = models
        self._first = next(iter(models))
        self._now = now
        self._used: dict[str, float] = {}  # ticket's number -> when it would expire; oldest first, nearly

    def session(self, ticket: str) -> bool:
        """Whether a session was opened with a ticket for all its requests; without any, each must bring its own.

        Raises:
            Unauthenticated, Forbidden, Busy: as `request`.
        """
        if not ticket:
            return False
        claims = self._read(ticket)
        self._bound("use", claims, SESSION)
        self._use(claims)
        return True

    def request(self, ticket: str, request: GenerateRequest, deadline: Deadline) -> Deadline:
        """Let one request in; returns its deadline, which the ticket may bring nearer.

        Raises:
            Unauthenticated: TICKET_MISSING, TICKET_INVALID or TICKET_EXPIRED.
            Forbidden: TICKET_REPLAYED.
            Busy: too many tickets are in use to remember another.
        """
        if not ticket:
            raise Unauthenticated("this expert asks for a ticket", reason="TICKET_MISSING", tokens_sent="0")
        claims = self._read(ticket)
        expert = request.expert or self._first
        self._bound("use", claims, REQUEST)
        self._bound("expert", claims, expert)
        if expert in self._models:  # else: the refusal of an expert that is not here says more
            self._bound("model", claims, self._models[expert])
        self._use(claims)
        if (until := claims.get("deadline")) is None:
            return deadline
        left_s, own_s = until + CLOCKS_APART_S - self._now(), deadline.left_s()
        return Deadline.after(left_s) if own_s is None or left_s < own_s else deadline

    def _read(self, ticket: str) -> dict[str, Any]:
        try:
            name = jwt.get_unverified_header(ticket).get("kid", "")
            claims = jwt.decode(
                ticket,
                self._keys.secrets.get(name, b""),
                algorithms=[ALGORITHM],
                options={"require": ["aud", "exp", "jti", "use"], "verify_aud": False, "verify_exp": False},
            )
        except (jwt.PyJWTError, TypeError, ValueError):  # the ticket itself must not get into a message
            raise Unauthenticated(
                "no key of this mesh has signed this ticket", reason="TICKET_INVALID", tokens_sent="0"
            ) from None
        if not isinstance(claims["exp"], (int, float)):
            raise Unauthenticated("a ticket without a time", reason="TICKET_INVALID", tokens_sent="0")
        if claims["exp"] + CLOCKS_APART_S <= self._now():
            raise Unauthenticated("the ticket's time is over", reason="TICKET_EXPIRED", tokens_sent="0")
        self._bound("aud", claims, self._replica)
        return claims

    def _bound(self, claim: str, claims: Mapping[str, Any], here: str) -> None:
        if claims.get(claim) != here:
            what = "replica" if claim == "aud" else claim
            raise Unauthenticated(
                f"the ticket is for another {what}", reason="TICKET_INVALID", bound_to=what, tokens_sent="0"
            )

    def _use(self, claims: Mapping[str, Any]) -> None:
        """Note that a ticket is used."""
        number, now = claims["jti"], self._now()
        if number in self._used:
            raise Forbidden("the ticket was used before", reason="TICKET_REPLAYED", tokens_sent="0")
        while self._used and next(iter(self._used.values())) <= now:
            del self._used[next(iter(self._used))]
        if len(self._used) >= REMEMBERED:
            raise Busy("too many tickets are in use", reason="EXPERT_BUSY", retry_after_s=1.0, tokens_sent="0")
        self._used[number] = claims["exp"] + CLOCKS_APART_S
