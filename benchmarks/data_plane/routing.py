"""The client where the router only decides: decisions over one stream, and answers from the engines themselves."""

import asyncio
import itertools
from collections.abc import Callable

import grpc

from benchmarks.data_plane.http2 import END_HEADERS, HEADERS, Connection, Sending, frame, prefixed
from benchmarks.data_plane.readers import Reading, request_block
from benchmarks.prompts import prompt
from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, Usage
from expertmesh.v1.router_pb2 import RouteAsk, RouteSessionRequest, RouteSessionResponse
from expertmesh_client.ways import Ways
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import MeshError
from mesh_wire.wire_options import channel_options

ROUTE_SESSION = "/expertmesh.v1.RouterService/RouteSession"
PROMPTS = 256  # prepared, and asked about in turn
STREAM = 1


class RouteStream(Connection):
    """Decisions over one `RouteSession`, so many to a message as a reading wants; each counts as a token there."""

    preface_due = False

    def __init__(self) -> None:
        super().__init__()
        self._ids = itertools.count(1)
        self._prepared: dict[str, itertools.cycle[RouteAsk]] = {}  # by the expert that is named
        self._asking: dict[int, Reading] = {}
        self._unread = b""
        self._out: Sending | None = None

    def ask(self, request: GenerateRequest, reading: Reading) -> Callable[[], None]:
        """Ask for `reading.wanted` decisions in one message, on requests like `request` with prompts of their own."""
        if self._out is None:
            self._out = self.sending[STREAM] = Sending(self, STREAM)
            self.out.append(frame(HEADERS, END_HEADERS, STREAM, request_block(ROUTE_SESSION)))
        asks = self._prepared.get(request.expert)
        if asks is None:
            asks = self._prepared[request.expert] = itertools.cycle(_asks_like(request))
        message = RouteSessionRequest()
        for ask, route_id in zip(itertools.islice(asks, reading.wanted), self._ids, strict=False):
            ask.route_id = route_id
            message.asks.append(ask)  # a copy
            self._asking[route_id] = reading
        self._out.data(prefixed(message.SerializeToString()))
        self.flush()
        if self.closed:
            self.lost()
        return lambda: None  # nobody goes on after a decision

    def data(self, stream_id: int, data: bytes, ended: bool) -> None:
        data, at = self._unread + data, 0
        while len(data) - at >= 5 and len(data) >= (over := at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")):
            for answer in RouteSessionResponse.FromString(data[at + 5 : over]).answers:
                reading = self._asking.pop(answer.route_id)
                if answer.HasField("decision"):
                    reading.delta("", (reading.tokens + 1,))
                else:
                    reading.failed = reading.failed or answer.failure.message
                if reading.failed or reading.tokens == reading.wanted:
                    reading.end()
            at = over
        self._unread = data[at:]

    def headers(self, stream_id: int, fields: dict[str, str], ended: bool) -> None:
        if ended:
            self._end(f"status {fields.get('grpc-status', 'none')} {fields.get('grpc-message', '')}")

    def reset(self, stream_id: int) -> None:
        self._end("reset")

    def lost(self) -> None:
        self._end("the connection was lost")

    def _end(self, failed: str) -> None:
        asking, self._asking = self._asking, {}
        for reading in asking.values():
            reading.end(failed)

    async def close(self) -> None:
        self.transport.abort()


def _asks_like(request: GenerateRequest) -> list[RouteAsk]:
    asks = [RouteAsk(request=request) for _ in range(PROMPTS)]
    for number, ask in enumerate(asks):
        ask.request.prompt = prompt(number)
    return asks


async def route_stream(port: int) -> RouteStream:
    _, caller = await asyncio.get_running_loop().create_connection(RouteStream, "127.0.0.1", port)
    return caller


class _Usage:
    """Keeps what an answer used, for the report; a `Relay`."""

    def __init__(self) -> None:
        self.found: Usage | None = None

    def begin(self) -> None:
        pass

    def end(self, finished: Finished) -> None:
        self.found = finished.usage


class AroundRouter:
    """Requests as `expertmesh_client` makes them with `direct=True`: a decision that holds a place, the answer over a
    session to the engine, a report."""

    def __init__(self, port: int) -> None:
        self._channel = _open(f"127.0.0.1:{port}")
        self._ways = Ways(self._channel, _open)
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, request: GenerateRequest, reading: Reading) -> Callable[[], None]:
        task = asyncio.create_task(self._ask(request, reading))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

        def cancel() -> None:
            task.cancel()

        return cancel

    async def _ask(self, request: GenerateRequest, reading: Reading) -> None:
        usage = _Usage()
        try:
            routed = await self._ways.routes.ask(request, Deadline(), ("", ""), ())
            try:
                decision = routed.decision
                request.expert = decision.route.expert
                with self._ways.expert(decision.endpoint) as expert:
                    await expert.ask(request, reading, Deadline(), relay=usage, ticket=decision.ticket)
            finally:
                routed.report(usage=usage.found)
            reading.end()
        except MeshError as error:
            reading.end(str(error))

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await self._ways.close()
        await self._channel.close()


def _open(target: str) -> grpc.aio.Channel:
    """Open a connection of its own, not shared with this process's other channels."""
    return grpc.aio.insecure_channel(target, options=[*channel_options(), ("grpc.use_local_subchannel_pool", 1)])


async def around_router(port: int) -> AroundRouter:
    return AroundRouter(port)
