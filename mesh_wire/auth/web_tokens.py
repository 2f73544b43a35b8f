"""JSON Web Tokens of a trusted issuer: whom they name, and until when."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from mesh_wire.auth.callers import expired_token
from mesh_wire.auth.keys import Keys
from mesh_wire.auth.sections import JwtSection
from mesh_wire.errors import Unauthenticated
from mesh_wire.validation import MAX_NAME

LONGEST = 8192  # characters


@dataclass(frozen=True, slots=True)
class Named:
    """What a good token says."""

    subject: str
    until: float  # seconds since the epoch, what clocks may differ by included


class WebTokens:
    """Checks tokens, each for the first time; who is given their answers keeps them until `keys` are renewed."""

    def __init__(self, section: JwtSection, now: Callable[[], float] = time.time) -> None:
        """Raises KeysUnusable."""
        self.keys = Keys(section.jwks)
        self._section = section
        self._now = now

    def read(self, token: str) -> Named:
        """Return whom a token names.

        Raises:
            Unauthenticated: TOKEN_EXPIRED, of one that was good; TOKEN_INVALID, of all others. What is wrong is told
                to nobody whose token is not the issuer's own, nor what a good one would look like.
        """
        if len(token) > LONGEST:
            raise invalid_token()
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            if algorithm not in self._section.algorithms:
                raise invalid_token()
            claims: dict[str, Any] = jwt.decode(
                token,
                self.keys.ring[header.get("kid", ""), algorithm],
                algorithms=[algorithm],
                issuer=self._section.issuer,
                audience=self._section.audience,
                leeway=self._section.leeway_s,
                # Its time is looked at below: by our clock, and after everything else.
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            until = float(claims["exp"]) + self._section.leeway_s
            since = float(claims.get("nbf", 0)) - self._section.leeway_s
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):  # the token stays out of the message
            raise invalid_token() from None
        if not until > self._now():
            raise expired_token()
        if since > self._now():
            raise invalid_token()
        subject = claims.get(self._section.claim)
        if not isinstance(subject, str) or not subject.isprintable() or not 0 < len(subject) <= MAX_NAME:
            raise invalid_token()
        return Named(subject, until)


def invalid_token() -> Unauthenticated:
    return Unauthenticated("the token is nobody's who may call here", reason="TOKEN_INVALID", tokens_sent="0")
