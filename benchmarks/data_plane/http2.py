"""The little of HTTP/2 that gRPC needs on the loopback, without grpcio: what the load generator and its engines speak.

A grpcio client or server in Python costs 40 to 70 µs a message, so at 20,000 tokens/s it would be the bottleneck that
is measured. This reads and writes a message in about 2 µs, and keeps to the peer's flow control. Header compression is
the package `hpack`'s.
"""

import asyncio
import struct
from collections import deque
from typing import Any, cast

try:
    from hpack import Decoder
except ImportError:
    raise SystemExit("error: this measurement needs the package hpack: pip install hpack") from None

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
CANCEL = 8
WIDE = 2**31 - 1
_HEAD = struct.Struct(">HBBBI")
_PREFIX = struct.Struct(">BI")
_REFILL = 32_768  # bytes read of a stream after which its sender may send as many more
_REFILL_ALL = 2**24  # likewise of a connection


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream_id) + payload


def prefixed(message: bytes) -> bytes:
    """Return a message as gRPC puts it into DATA frames."""
    return _PREFIX.pack(0, len(message)) + message


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field, not compressed and not remembered by the other end."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Sending:
    """The sending half of one HTTP/2 stream: what its window does not admit yet waits in `held`."""

    __slots__ = ("connection", "held", "last", "stream_id", "window")

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.window = connection.initial_window
        self.held: deque[bytes] = deque()
        self.last: bytes | None = None  # the frame that ends the stream, once all else is out

    @property
    def blocked(self) -> bool:
        return bool(self.held) or self.connection.paused

    def data(self, data: bytes) -> None:
        """Send bytes, with the connection's next `flush` at the earliest."""
        to, size = self.connection, len(data)
        if size <= self.window and size <= to.window and size <= to.max_frame and not self.held:
            self.window -= size
            to.window -= size
            to.out.append(_HEAD.pack(size >> 8, size & 255, DATA, 0, self.stream_id))
            to.out.append(data)
        else:
            self.held.append(data)
            self.pump()

    def end(self, trailers: bytes) -> None:
        """Send a frame that ends the stream, after all that was sent."""
        if self.held:
            self.last = trailers
        else:
            self.connection.out.append(trailers)
            self.connection.sending.pop(self.stream_id, None)

    def pump(self) -> None:
        to = self.connection
        while self.held and (size := min(self.window, to.window, to.max_frame, len(self.held[0]))) > 0:
            data = self.held.popleft()
            if size < len(data):
                self.held.appendleft(data[size:])
            self.window -= size
            to.window -= size
            to.out.append(frame(DATA, 0, self.stream_id, data[:size]))
        if not self.held and self.last is not None:
            to.out.append(self.last)
            to.sending.pop(self.stream_id, None)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection. A subclass overrides `headers`, `data`, `reset` and `lost`."""

    preface_due = True  # a server is sent the preface before the first frame

    def __init__(self) -> None:
        self.window = self.initial_window = 65535  # what the peer lets us send
        self.max_frame = 16384
        self.paused = False
        self.closed = False
        self.out: list[bytes] = []
        self.sending: dict[int, Sending] = {}
        self._decoder = Decoder()
        self._rest = b""
        self._read: dict[int, int] = {}  # bytes of each stream since its last refill; 0 is the connection

    def headers(self, stream_id: int, fields: dict[str, str], ended: bool) -> None: ...

    def data(self, stream_id: int, data: bytes, ended: bool) -> None: ...

    def reset(self, stream_id: int) -> None: ...

    def lost(self) -> None: ...

    def eased(self) -> None:
        """Called when what was blocked may go on."""

    def flush(self) -> None:
        """Write all that was sent since the last time, at once."""
        if self.out and not self.closed:
            self.transport.write(b"".join(self.out))
        self.out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self.preface_due:
            self.out.append(PREFACE)
        self.out.append(frame(SETTINGS, 0, 0))  # the windows of streams stay at HTTP/2's 65,535 bytes, as in gRPC
        self.out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDE - 65535)))
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.lost()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.eased()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else bytes(data)
        at, size = 0, len(data)
        if self.preface_due:
            if size < len(PREFACE):
                self._rest = data
                return
            self.preface_due, at = False, len(PREFACE)
        while size - at >= 9:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            over = at + 9 + (high << 8 | low)
            if over > size:
                break
            payload = data[at + 9 : over]
            at_head, at = at, over
            if kind == DATA:
                if flags & PADDED:
                    payload = payload[1 : len(payload) - payload[0]]
                self._count(stream_id, over - at_head - 9, flags)
                self.data(stream_id, payload, bool(flags & END_STREAM))
            else:
                self._control(kind, flags, stream_id, payload)
        self._rest = data[at:]
        self.flush()

    def _count(self, stream_id: int, size: int, flags: int) -> None:
        """Let the other end send more once so much has been read."""
        for one, limit in ((stream_id, _REFILL), (0, _REFILL_ALL)):
            total = self._read.get(one, 0) + size
            if total >= limit:
                self.out.append(frame(WINDOW_UPDATE, 0, one, total.to_bytes(4, "big")))
                total = 0
            self._read[one] = total
        if flags & END_STREAM:
            del self._read[stream_id]

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == HEADERS:
            assert flags & END_HEADERS, "header blocks in several frames are not understood here"
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            fields: Any = self._decoder.decode(payload[5:] if flags & WITH_PRIORITY else payload)
            if flags & END_STREAM:
                self._read.pop(stream_id, None)
            self.headers(stream_id, dict(fields), bool(flags & END_STREAM))
        elif kind == RST_STREAM:
            self.sending.pop(stream_id, None)
            self._read.pop(stream_id, None)
            self.reset(stream_id)
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self.out.append(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big") & WIDE
            if stream_id == 0:
                self.window += more
                waiting = list(self.sending.values())
            else:
                waiting = [one] if (one := self.sending.get(stream_id)) else []
                for one in waiting:
                    one.window += more
            self._pump(waiting)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            key, value = struct.unpack_from(">HI", payload, at)
            if key == INITIAL_WINDOW_SIZE:
                for one in self.sending.values():
                    one.window += value - self.initial_window
                self.initial_window = value
                self._pump(list(self.sending.values()))
            elif key == MAX_FRAME_SIZE:
                self.max_frame = value

    def _pump(self, waiting: list[Sending]) -> None:
        eased = False
        for one in waiting:
            if one.held:
                one.pump()
                eased = eased or not one.held
        if eased:
            self.eased()
