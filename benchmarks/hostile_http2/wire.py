"""A connection of HTTP/2 that is written to frame by frame, right or wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GENERATE = "/expertmesh.v1.InferenceService/Generate"
HOST = "127.0.0.1"
BATCH_S = 0.005  # of what a pace lets through at once


class Pace:
    """So many things a second, a few at a time; without a bound, as many as one likes."""

    def __init__(self, per_s: float | None = None) -> None:
        self._per_s = per_s
        self._due = time.monotonic()

    async def batches(self, count: int, most: int) -> AsyncIterator[range]:
        """Yield the numbers below `count` in their order, at most `most` at once, each when it is due."""
        size = most if self._per_s is None else max(1, min(most, int(self._per_s * BATCH_S)))
        for first in range(0, count, size):
            batch = range(first, min(first + size, count))
            if self._per_s is not None:
                now = time.monotonic()
                self._due = max(self._due, now - BATCH_S)  # what was missed is not made up for by a burst
                await asyncio.sleep(max(0.0, self._due - now))
                self._due += len(batch) / self._per_s
            yield batch


class Wire:
    """A connection, written to byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer
        self._encoder = Encoder()

    async def send(self, *frames: Frame | bytes) -> bool:
        """Send frames; returns False once the server has hung up."""
        try:
            self._writer.write(b"".join(one if isinstance(one, bytes) else one.serialize() for one in frames))
            await self._writer.drain()
        except ConnectionError:
            return False
        return not self._writer.is_closing()

    def begin(self, stream: int, *, flags: tuple[str, ...] = ("END_HEADERS",), **more: str) -> HeadersFrame:
        """Return the headers of a call."""
        usual = {":method": "POST", ":scheme": "http", ":path": GENERATE, ":authority": "m", "te": "trailers"}
        headers = {**usual, "content-type": "application/grpc", **more}
        return HeadersFrame(stream, self._encoder.encode(headers.items()), flags=flags)

    def asks(self, stream: int, tokens: int) -> tuple[Frame, Frame]:
        """Return a whole call."""
        request = GenerateRequest(
            prompt="Tell me about rivers.", sampling=Sampling(max_new_tokens=tokens, temperature=0, ignore_eos=True)
        )
        body = request.SerializeToString()
        data = bytes(1) + len(body).to_bytes(4, "big") + body
        return self.begin(stream), DataFrame(stream, data, flags=["END_STREAM"])

    async def read_on(self) -> None:
        """Read, and forget, until the server closes."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def wire(port: int, *, settings: dict[int, int] | None = None, reads: bool = False) -> AsyncIterator[Wire]:
    """Connect and greet; `reads`: all that comes, beside."""
    reader, writer = await asyncio.open_connection(HOST, port)
    connection = Wire(reader, writer)
    reading = asyncio.create_task(connection.read_on()) if reads else None
    try:
        await connection.send(PREFACE, SettingsFrame(settings=settings or {}))
        yield connection
    finally:
        connection.close()
        if reading is not None:
            reading.cancel()
