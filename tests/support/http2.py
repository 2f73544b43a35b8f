"""HTTP/2 without gRPC: to see what a gRPC client keeps to itself, and to do what none would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, TrailersReceived


class Http2:
    """One connection to a server, with calls one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()

    async def flush(self) -> None:
        """Send what `h2` has ready."""
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def events(self) -> list[Event]:
        """Return what the server's next bytes mean; nothing once it has hung up."""
        received = await self._reader.read(65536)
        events: list[Event] = self.h2.receive_data(received) if received else []
        await self.flush()
        return events

    async def call(self, path: str, request: Message) -> tuple[list[bytes], dict[str, str]]:
        """Make one call; returns its messages, and its trailer with `grpc-status`."""
        stream = self.h2.get_next_available_stream_id()
        headers = (
            *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "mesh")),
            *(("content-type", "application/grpc"), ("te", "trailers")),
        )
        body = request.SerializeToString()
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, bytes(1) + len(body).to_bytes(4, "big") + body, end_stream=True)
        await self.flush()
        data, trailer, over = bytearray(), dict[str, str](), False
        while not over:
            for event in await self.events():
                if getattr(event, "stream_id", stream) != stream:
                    continue
                if isinstance(event, DataReceived):
                    data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, ResponseReceived | TrailersReceived):  # an answer without messages has only one
                    trailer |= {str(key): str(value) for key, value in event.headers}
                over = over or isinstance(event, StreamEnded)
        await self.flush()
        return list(_messages(bytes(data))), trailer


def _messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        found.append(data[5 : 5 + size])
        data = data[5 + size :]
    return found


@asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2]:
    """Connect to a port of this machine for as long as the block runs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        connection = Http2(reader, writer)
        await connection.flush()
        yield connection
    finally:
        writer.close()
