"""Secrets that a mesh file names, read from where it says that they are."""

import os
from collections.abc import Mapping

from mesh_wire.section import KeySource

SHORTEST = 32  # bytes: what HS256 asks for, and more than anybody guesses


def secret_of(source: KeySource, env: Mapping[str, str] = os.environ) -> bytes:
    """Return a secret. What `source_trouble` finds must have been put right."""
    if source.env is not None:
        return env[source.env].encode()
    assert source.file is not None, "a source has one of the two"
    return source.file.read_bytes().strip()


def source_trouble(source: KeySource, env: Mapping[str, str]) -> str:
    """Return why a secret cannot be used; empty if it can. The reason tells nothing of it."""
    try:
        secret = secret_of(source, env)
    except KeyError:
        return f"the environment has no {source.env}"
    except OSError as error:
        return f"{source.file}: {error.strerror or 'cannot be read'}"
    return "" if len(secret) >= SHORTEST else f"a key has at least {SHORTEST} bytes"
