"""Certificate authorities and what they sign, made as a test needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mesh_wire.tls import ClientTls, ServerTls

SERVER = "expert.test"


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Authority(Signed):
    """Signs certificates."""

    def sign(self, name: str, *, uris: Sequence[str] = (), days: tuple[float, float] = (-1, 30)) -> Signed:
        """Return a certificate of a name; `days` from now on are its time."""
        key = generate_private_key(SECP256R1())
        names = [x509.DNSName(name), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        return Signed(_made(name, key, self, days, names), key)


def authority(name: str = "authority.test") -> Authority:
    key = generate_private_key(SECP256R1())
    return Authority(_made(name, key, None, (-1, 30), ()), key)


def _made(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: Signed | None,
    days: tuple[float, float],
    names: Sequence[x509.GeneralName],
) -> x509.Certificate:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer.key if issuer else key, SHA256())


@dataclass(frozen=True)
class Files:
    """A folder of PEM files, as a server and its callers are given them."""

    folder: Path

    def put(self, name: str, signed: Signed) -> Path:
        """Write `name.pem` and `name.key`, in the place of any that are there; returns the former."""
        self.replace(f"{name}.key", signed.key_pem)
        return self.replace(f"{name}.pem", signed.pem)

    def replace(self, name: str, content: bytes) -> Path:
        """Put a file in the place of another, at once."""
        new = self.folder / f"{name}.new"
        new.write_bytes(content)
        return new.replace(self.folder / name)

    def server(self, name: str = "server", *, authority: str | None = None) -> ServerTls:
        return ServerTls(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            client_authority=self.folder / f"{authority}.pem" if authority else None,
        )

    def client(self, name: str | None = None, *, authority: str = "authority") -> ClientTls:
        return ClientTls(
            authority=self.folder / f"{authority}.pem",
            certificate=self.folder / f"{name}.pem" if name else None,
            key=self.folder / f"{name}.key" if name else None,
            server_name=SERVER,
        )
