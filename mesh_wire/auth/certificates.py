"""Certificates and keys as PEM text: what is wrong with them, and until when they are good."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Stamp = tuple[int, int, int]  # a file's inode, time of change in nanoseconds, and size
NO_FILE: Stamp = (0, 0, 0)


def faults(
    *, certificate: bytes | None, key: bytes | None, authority: bytes | None, at: datetime | None = None
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, each with the name of the part: `certificate`, `key` or `authority`.

    Args:
        at: when they are to be good; None: now.
    """
    at = at or datetime.now(UTC)
    chain, wrong = _chain(certificate, at)
    yield from (("certificate", words) for words in wrong)
    yield from (("authority", words) for words in _chain(authority, at)[1])
    if key is None:
        return
    # Here, as in all functions: it takes a command line tens of milliseconds, and most of them need none of it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # its words may quote the key
        yield "key", "is no private key in PEM form without a password"
        return
    if chain and private.public_key() != chain[0].public_key():
        yield "key", "is not the key of the certificate"


def until(certificate: bytes) -> datetime:
    """Return when the first certificate of a chain ends."""
    from cryptography.x509 import load_pem_x509_certificates

    return load_pem_x509_certificates(certificate)[0].not_valid_after_utc


def stamp_of(file: Path) -> Stamp:
    """Return what tells a file from its successor; it follows links, as those of a mounted secret."""
    try:
        found = file.stat()
    except OSError:
        return NO_FILE
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _chain(pem: bytes | None, at: datetime) -> "tuple[list[Certificate], list[str]]":
    """Return the certificates, and what is wrong with them."""
    if pem is None:
        return [], []
    from cryptography.x509 import load_pem_x509_certificates

    try:
        chain = load_pem_x509_certificates(pem)
    except ValueError:
        return [], ["is no certificate in PEM form"]
    wrong = []
    for one in chain:
        if one.not_valid_after_utc <= at:
            wrong.append(f"expired on {one.not_valid_after_utc:%Y-%m-%d at %H:%M} UTC")
        elif one.not_valid_before_utc > at:
            wrong.append(f"is good only from {one.not_valid_before_utc:%Y-%m-%d at %H:%M} UTC on")
    return chain, wrong
