"""An issuer's public keys, from a JSON Web Key Set in a file that may change."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh_wire.auth.certificates import stamp_of

if TYPE_CHECKING:
    from jwt import PyJWK

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_PUBLIC = ("RSA", "EC", "OKP")
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

KeyRing = Mapping[tuple[str, str], "PyJWK"]  # key id, empty where the key has none, and algorithm -> key


class KeysUnusable(ValueError):
    """A file that is no set of public keys."""


def public_keys(file: Path) -> KeyRing:
    """Read a key set. Keys that are not for signatures, or of a kind that is not known here, are left out.

    Raises:
        KeysUnusable: there is none in the file, or one that must not be: a secret, or a key too short.
    """
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise KeysUnusable(f"{file}: {error.strerror or 'cannot be read'}") from None
    except ValueError:
        raise KeysUnusable(f"{file} is no JSON") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise KeysUnusable(f"{file} is no JSON Web Key Set: it has no list of `keys`")
    ring: dict[tuple[str, str], PyJWK] = {}
    for number, one in enumerate(keys):
        if isinstance(one, dict) and one.get("use", "sig") == "sig":
            ring |= _forms(one, f"{file}: keys[{number}]")
    if not ring:
        raise KeysUnusable(f"{file} has no key by which a signature could be checked")
    return ring


def _forms(one: dict[str, Any], place: str) -> "dict[tuple[str, str], PyJWK]":
    """Return a key in each algorithm that it may be used with: the one that it names, or those of its kind."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    if one.get("kty") == "oct" or "d" in one:
        raise KeysUnusable(f"{place} is a secret; only public keys belong there")
    if one.get("kty") not in _PUBLIC:
        return {}
    named: Sequence[str | None] = [one.get("alg")] if one.get("alg") or one["kty"] != "RSA" else _RSA
    forms: dict[tuple[str, str], PyJWK] = {}
    for algorithm in named:
        try:
            key = PyJWK(one, algorithm)
        except PyJWTError:  # a curve that is not known here, or a broken key
            continue
        if key.Algorithm.check_key_length(key.key):
            raise KeysUnusable(f"{place} is too short a key")
        forms[str(one.get("kid", "")), str(key.algorithm_name)] = key
    return forms


class Keys:
    """The keys of a file, read again when it changes. While it cannot be used, those from before stay."""

    def __init__(self, file: Path) -> None:
        """Raises KeysUnusable."""
        self._file = file
        self._stamp = stamp_of(file)
        self._looked_at = time.monotonic()
        self._complaint = ""
        self.ring = public_keys(file)

    def renewed(self) -> bool:
        """Look at the file, at most once a second; returns whether there are other keys now."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        if (stamp := stamp_of(self._file)) == self._stamp:
            return False
        try:
            self.ring = public_keys(self._file)
        except KeysUnusable as error:
            if str(error) != self._complaint:
                log.error("the changed keys are not taken, the old ones stay: %s", error)
            self._complaint = str(error)
            return False
        self._stamp, self._complaint = stamp, ""
        log.info("%d new keys from %s", len({kid for kid, _ in self.ring}), self._file)
        return True
