"""From a call's certificate and token to its caller."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from mesh_wire.auth.callers import Caller, Kind, caller_of, expired_token
from mesh_wire.auth.sections import CallerSection, KnownCaller, PeerSection, Rights
from mesh_wire.auth.tokens import SHORTEST_TOKEN, hash_of
from mesh_wire.auth.web_tokens import WebTokens, invalid_token
from mesh_wire.errors import Forbidden
from mesh_wire.secret_sources import secret_of

AUTHORIZATION = "authorization"  # the metadata that carries a token, after the word Bearer
REMEMBERED = 10_000  # JSON Web Tokens that need not be checked again; some 5 MB


class Identities:
    """Knows callers, and the mesh's own routers, by what they show.

    A token says more than a certificate: a gateway may hold one connection for many callers. So one that is shown is
    looked at, and one that is not good is never passed over.
    """

    def __init__(
        self,
        callers: CallerSection | None,
        peers: PeerSection | None,
        *,
        workers: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        workers: processes among which a caller's limits are shared out.
        now: seconds since the epoch.

        Raises:
            KeysUnusable: there are no keys for JSON Web Tokens where the file says that they are.
        """
        section = callers or CallerSection()
        self._workers = workers
        self._now = now
        self._by_certificate: dict[str, Caller] = {}
        self._by_hash: dict[str, Caller] = {}
        self._by_subject: dict[str, KnownCaller] = {}
        for known in section.known:
            caller = caller_of(known.name, Kind.KNOWN, known, workers=workers)
            if known.certificate:
                self._by_certificate[known.certificate] = caller
            self._by_hash.update(dict.fromkeys(known.token_sha256, caller))
            self._by_subject[known.subject or known.name] = known
        if peers is not None:
            router = Caller("router", Kind.PEER)
            self._by_certificate |= {name: Caller(name, Kind.PEER) for name in peers.certificates}
            if peers.token is not None:
                self._by_hash[hash_of(secret_of(peers.token).decode())] = router
        self._jwt = section.jwt
        self._web_tokens = WebTokens(section.jwt, now) if section.jwt else None
        self._read: dict[str, Caller] = {}  # a token's hash -> whom it names; the one used longest ago first

    def of(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller | None:
        """Return who makes a call; None if it has no token, nor a certificate that names anybody who is known here.

        Raises:
            Unauthenticated: TOKEN_INVALID or TOKEN_EXPIRED.
            Forbidden: CALLER_UNKNOWN; the token is good, and names nobody who is known here.
        """
        token = bearer(context.invocation_metadata() or ())
        if token is not None:
            return self.by_token(token)
        if not self._by_certificate:
            return None
        # gRPC's own rule: the names of the subject's alternative, or, where there are none, the common name.
        names = (name.decode(errors="replace") for name in context.peer_identities() or ())
        return next((self._by_certificate[name] for name in names if name in self._by_certificate), None)

    def by_token(self, token: str) -> Caller:
        """Return whose token it is; see `of`."""
        if len(token) < SHORTEST_TOKEN:
            raise invalid_token()
        digest = hash_of(token)
        if (caller := self._by_hash.get(digest)) is not None:
            return caller
        if self._web_tokens is None:
            raise invalid_token()
        if self._web_tokens.keys.renewed():
            self._read.clear()  # what a withdrawn key has signed is good no longer
        caller = self._read.pop(digest, None)
        if caller is None:
            caller = self._named(self._web_tokens, token)
        if not caller.until > self._now():
            raise expired_token()
        self._read[digest] = caller
        if len(self._read) > REMEMBERED:
            del self._read[next(iter(self._read))]
        return caller

    def _named(self, web_tokens: WebTokens, token: str) -> Caller:
        """Return whom a JSON Web Token names that was not seen before."""
        named = web_tokens.read(token)
        known: KnownCaller | None = self._by_subject.get(named.subject)
        rights: Rights | None = known or (self._jwt.unlisted if self._jwt else None)
        if rights is None:
            raise Forbidden("the token names nobody who may call here", reason="CALLER_UNKNOWN", tokens_sent="0")
        name = known.name if known else named.subject
        return caller_of(name, Kind.KNOWN, rights, workers=self._workers, until=named.until)


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Return the token of a call's metadata; None if there is none. A header of another kind holds no token."""
    for key, value in metadata:
        if key == AUTHORIZATION:
            scheme, _, token = str(value).partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return None
