"""Channels to one server, opened again where the caller's certificates have changed."""

import logging

import grpc

from mesh_wire.serving import open_channel
from mesh_wire.tls import ClientTls

log = logging.getLogger(__name__)


class Doors:
    """Opens channels to one target. Each is opened with the certificates of its time: see `ClientTls`."""

    def __init__(self, target: str, tls: ClientTls | None) -> None:
        self._target = target
        self._tls = tls
        self._stamps = tls.stamps() if tls else ()
        self._complaint = ""

    def open(self) -> grpc.aio.Channel:
        """Open the first channel."""
        return open_channel(self._target, self._tls)

    def reopened(self) -> grpc.aio.Channel | None:
        """Open another channel if the files have changed since the last; None: they have not, or cannot be used."""
        if self._tls is None or (stamps := self._tls.stamps()) == self._stamps:
            return None
        try:
            wrong = "; ".join(f"`{part}` {words}" for part, words in self._tls.faults())
            channel = None if wrong else open_channel(self._target, self._tls)
        except OSError as error:
            wrong, channel = error.strerror or "cannot be read", None
        if wrong and wrong != self._complaint:
            log.error("the changed certificates are not used to reach %s: %s", self._target, wrong)
        self._complaint = wrong
        if channel is not None:
            self._stamps = stamps
        return channel
