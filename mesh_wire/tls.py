"""TLS files to gRPC credentials, for servers and channels."""

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """What a server shows, and whom it trusts. PEM files."""

    certificate: Path  # the server's certificate chain
    key: Path  # its private key
    client_authority: Path | None = None  # set: callers must show a certificate that this authority signed

    def credentials(self) -> grpc.ServerCredentials:
        authority = self.client_authority.read_bytes() if self.client_authority else None
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Whom a caller trusts, and what it shows. PEM files."""

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
