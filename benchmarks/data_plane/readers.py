"""The client: streams of tokens, read at little cost, by plain calls or over sessions."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from benchmarks.data_plane.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    Sending,
    frame,
    literal,
    prefixed,
)
from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, GenerateResponse, RouteChosen
from expertmesh.v1.router_pb2 import RouteRequest
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import MeshError
from mesh_wire.outlets import Tally
from mesh_wire.session_caller import SessionCaller
from mesh_wire.wire_options import channel_options

GENERATE = "/expertmesh.v1.InferenceService/Generate"
ROUTE = "/expertmesh.v1.RouterService/Route"


class Reading:
    """One answer as it arrives; also an outlet of `SessionCaller`. Token i of an answer has the id i."""

    __slots__ = ("began", "deltas", "done", "failed", "first_at", "last_at", "tally", "tokens", "wanted", "widest_s")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.tokens = 0
        self.deltas = 0  # in how many pieces they came
        self.first_at = 0.0
        self.last_at = 0.0
        self.widest_s = 0.0  # largest gap between two arrivals since `mark`
        self.failed = ""
        self.tally = Tally()  # for SessionCaller alone
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = time.perf_counter()

    def mark(self) -> None:
        """Forget the gaps so far."""
        self.widest_s, self.last_at = 0.0, time.perf_counter()

    def gap_s(self) -> float:
        """Return the largest gap since `mark`, the one that lasts included."""
        return max(self.widest_s, time.perf_counter() - self.last_at)

    def route(self, chosen: RouteChosen) -> None:
        pass

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Any = ()) -> None:
        now = time.perf_counter()
        if not self.tokens:
            self.first_at = now
        elif now - self.last_at > self.widest_s:
            self.widest_s = now - self.last_at
        self.last_at = now
        self.deltas += 1
        for token in token_ids:
            self.tokens += 1
            if token != self.tokens and not self.failed:
                self.failed = f"token {token} where {self.tokens} was due"

    def finished(self, finished: Finished) -> None:
        if self.tokens != self.wanted and not self.failed:
            self.failed = f"ended after {self.tokens} of {self.wanted} tokens"

    def end(self, failed: str = "") -> None:
        self.failed = self.failed or failed
        if not self.done.done():
            self.done.set_result(None)


class Caller(Protocol):
    """Asks over one connection."""

    def ask(self, request: GenerateRequest, reading: Reading) -> Callable[[], None]:
        """Begin a request whose answer goes into `reading`; returns what cancels it."""

    async def close(self) -> None: ...


def request_block(path: str) -> bytes:
    """Return the header block of a gRPC call, without compression."""
    return b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + bytes([len(path)]) + path.encode(),
            b"\x01\x09localhost",
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
        ]
    )


class PlainCaller(Connection):
    """Calls of `Generate` or `Route` over one HTTP/2 connection; a decision counts as one token."""

    preface_due = False

    def __init__(self, path: str = GENERATE) -> None:
        super().__init__()
        self._streamed = path == GENERATE
        self._block = request_block(path)
        self._next_id = 1
        self._open: dict[int, Reading] = {}
        self._unread: dict[int, bytes] = {}

    def ask(self, request: GenerateRequest, reading: Reading) -> Callable[[], None]:
        message = (request if self._streamed else RouteRequest(request=request)).SerializeToString()
        stream_id = self._next_id
        self._next_id += 2
        self._open[stream_id] = reading
        self.sending[stream_id] = out = Sending(self, stream_id)
        self.out.append(frame(HEADERS, END_HEADERS, stream_id, self._block))
        out.data(prefixed(message))
        out.end(frame(DATA, END_STREAM, stream_id))
        self.flush()
        if self.closed:
            self._end(stream_id, "the connection is closed")

        def cancel() -> None:
            if self._open.pop(stream_id, None) is not None and not self.closed:
                self.transport.write(frame(RST_STREAM, 0, stream_id, CANCEL.to_bytes(4, "big")))

        return cancel

    def data(self, stream_id: int, data: bytes, ended: bool) -> None:
        reading = self._open.get(stream_id)
        if reading is None:
            return
        if self._unread:
            data = self._unread.pop(stream_id, b"") + data
        at, size = 0, len(data)
        while size - at >= 5 and size >= (over := at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")):
            if not self._streamed:
                reading.delta("", (1,))
            else:
                message = GenerateResponse.FromString(data[at + 5 : over])
                if message.HasField("delta"):
                    reading.delta("", message.delta.token_ids)
                elif message.HasField("finished"):
                    reading.finished(message.finished)
            at = over
        if at < size:
            self._unread[stream_id] = data[at:]

    def headers(self, stream_id: int, fields: dict[str, str], ended: bool) -> None:
        if ended:
            status = fields.get("grpc-status", "none")
            self._end(stream_id, "" if status == "0" else f"status {status} {fields.get('grpc-message', '')}")

    def reset(self, stream_id: int) -> None:
        self._end(stream_id, "reset")

    def lost(self) -> None:
        for stream_id in [*self._open]:
            self._end(stream_id, "the connection was lost")

    def _end(self, stream_id: int, failed: str) -> None:
        self._unread.pop(stream_id, None)
        if (reading := self._open.pop(stream_id, None)) is not None:
            reading.end(failed or ("" if reading.tokens == reading.wanted else f"{reading.tokens} tokens"))

    async def close(self) -> None:
        self.transport.abort()


async def plain(port: int, path: str = GENERATE) -> PlainCaller:
    _, caller = await asyncio.get_running_loop().create_connection(lambda: PlainCaller(path), "127.0.0.1", port)
    return caller


class OverSession:
    """Requests over one session, by the mesh's own caller, on a connection of its own."""

    def __init__(self, port: int) -> None:
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._session = SessionCaller(self._channel)
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, request: GenerateRequest, reading: Reading) -> Callable[[], None]:
        task = asyncio.create_task(self._ask(request, reading))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

        def cancel() -> None:
            task.cancel()

        return cancel

    async def _ask(self, request: GenerateRequest, reading: Reading) -> None:
        try:
            await self._session.ask(request, reading, Deadline())
            reading.end()
        except MeshError as error:
            reading.end(str(error))

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await self._session.close()
        await self._channel.close()


async def over_session(port: int) -> OverSession:
    return OverSession(port)
