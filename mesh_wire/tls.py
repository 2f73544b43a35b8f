"""The TLS files of servers and channels. Servers read theirs anew when they change: see `auth.reloading`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from mesh_wire.auth.certificates import Stamp, faults, stamp_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """What a server shows, and whom it trusts. PEM files."""

    certificate: Path  # the server's certificate chain
    key: Path  # its private key
    client_authority: Path | None = None  # set: callers must show a certificate that this authority signed

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the files, each with the field that names it; those that are missing apart."""
        found = faults(certificate=_read(self.certificate), key=_read(self.key), authority=_read(self.client_authority))
        return (("client_authority" if part == "authority" else part, words) for part, words in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Whom a caller trusts, and what it shows. PEM files.

    A channel keeps what it was opened with: gRPC for Python cannot give it other certificates. So whoever keeps a
    channel for long opens another when `stamps` change.
    """

    authority: Path | None = None  # None: the system's authorities
    certificate: Path | None = None  # the caller's own certificate chain, where the server asks for one
    key: Path | None = None  # its private key
    server_name: str | None = None  # the name in the server's certificate, where it is not the target's

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            *(p.read_bytes() if p else None for p in (self.authority, self.key, self.certificate))
        )

    def options(self) -> list[tuple[str, int | str]]:
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the files, each with the field that names it; those that are missing apart."""
        if (self.certificate is None) != (self.key is None):
            yield "key" if self.key is None else "certificate", "a certificate and its key belong together"
        yield from faults(certificate=_read(self.certificate), key=_read(self.key), authority=_read(self.authority))

    def stamps(self) -> tuple[Stamp, ...]:
        """Return what changes when a file does."""
        return tuple(stamp_of(file) for file in (self.authority, self.certificate, self.key) if file)


def _read(file: Path | None) -> bytes | None:
    """Return a file's content; None where there is none, or none can be read: `premises` says so."""
    try:
        return file.read_bytes() if file else None
    except OSError:
        return None
