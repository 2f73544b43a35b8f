"""A server's certificates, read anew when their files have changed, without a restart and without a lost connection."""

import logging
import threading
import time
from datetime import UTC, datetime

import grpc

from mesh_wire.auth.certificates import NO_FILE, Stamp, faults, stamp_of, until
from mesh_wire.telemetry import Telemetry
from mesh_wire.tls import ServerTls

log = logging.getLogger(__name__)

TRY_AGAIN_S = 1.0  # between two looks at files that cannot be used and have not changed: they may be good only later


class Unusable(OSError):
    """Certificate files that no server can show."""


class Certificates:
    """What a server shows, and whom it trusts.

    gRPC asks at every handshake, in a thread of its own, whether there is something new: a look at three files'
    stamps. New files are used when they fit together and are in their time; until then, what was good before goes on,
    and the log and a metric say so. Connections that stand keep what they began with.
    """

    def __init__(self, tls: ServerTls, telemetry: Telemetry | None = None) -> None:
        """Raises Unusable: there is nothing to begin with."""
        self._tls = tls
        self._files = [file for file in (tls.certificate, tls.key, tls.client_authority) if file]
        self._lock = threading.Lock()
        self._complaint = ""
        self._tried_at = 0.0
        telemetry = telemetry or Telemetry.off()
        self._reloads = telemetry.meter.create_counter(
            "expertmesh.tls.reloads", unit="{reload}", description="Certificates read again, by outcome"
        )
        telemetry.observe_seconds("expertmesh.tls.certificate.left", "Until the server's certificate ends", self.left_s)
        self._stamps = self._look()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self.changed,  # type: ignore[arg-type]  # None, for no change, is missing from the published types
            require_client_authentication=self._tls.client_authority is not None,
        )

    def left_s(self) -> float:
        """Return for how long the certificate is good, in seconds; negative: it was."""
        return (self._until - datetime.now(UTC)).total_seconds()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is to be shown from now on; None: what is shown already."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                self._complaint = ""  # what could not be used has been taken back
                return None
            now = time.monotonic()
            if self._complaint and now - self._tried_at < TRY_AGAIN_S:
                return None
            self._tried_at = now
            try:
                new = self._read()
            except Exception as error:  # whatever it is, callers must not be turned away for it
                self._complain(str(error))
                return None
            self._stamps, self._complaint = stamps, ""
        log.info("new certificates from %s, good until %s", self._tls.certificate, f"{self._until:%Y-%m-%d %H:%M} UTC")
        self._reloads.add(1, {"expertmesh.outcome": "taken"})
        return new

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(file) for file in self._files)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files. Since they are replaced one by one, they may disagree for a moment."""
        missing = [str(file) for file in self._files if stamp_of(file) == NO_FILE]
        if missing:
            raise Unusable("; ".join(f"{file} is not there" for file in missing))
        tls = self._tls
        certificate, key = tls.certificate.read_bytes(), tls.key.read_bytes()
        authority = tls.client_authority.read_bytes() if tls.client_authority else None
        wrong = [
            f"{tls.client_authority if part == 'authority' else getattr(tls, part)} {words}"
            for part, words in faults(certificate=certificate, key=key, authority=authority)
        ]
        if wrong:
            raise Unusable("; ".join(wrong))
        self._until = until(certificate)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            log.error("the changed certificates are not taken, the old ones stay: %s", why)
            self._reloads.add(1, {"expertmesh.outcome": "refused"})
        self._complaint = why
