"""Static tokens: long random strings, of which the mesh keeps hashes alone."""

import hashlib
import secrets

TOKEN_BYTES = 32  # of randomness
SHORTEST_TOKEN = 32  # characters; what is shorter was not made by `expertmesh token` and may be guessed


def new_token() -> str:
    """Return a new token: 43 characters of a URL's alphabet."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def hash_of(token: str) -> str:
    """Return a token's SHA-256, in hexadecimal.

    A slow hash, as passwords need, would protect nothing more: 256 random bits cannot be guessed, whoever has the
    hash. Nor does the time of a comparison tell anything: what is compared is the hash of what was sent, and nobody
    can send a token whose hash begins as another's does. So hashes may be looked up in a table.
    """
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
