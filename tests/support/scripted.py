"""A node of the mesh that does as a test tells it: it speaks the router's contract, without a router behind it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from expertmesh.v1 import inference_pb2_grpc, router_pb2_grpc
from expertmesh.v1.expert_pb2 import DescribeResponse, Load, ServedExpert
from expertmesh.v1.generation_pb2 import (
    Delta,
    ExpertScore,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    RouteChosen,
    RouteReason,
    StageTimings,
    Usage,
)
from expertmesh.v1.inference_pb2 import (
    DeltaColumns,
    SessionFailed,
    SessionFinished,
    SessionRequest,
    SessionResponse,
    SessionRoute,
    SessionStart,
)
from expertmesh.v1.router_pb2 import (
    Expert,
    ListExpertsRequest,
    ListExpertsResponse,
    Replica,
    ReplicaWeighed,
    RouteRequest,
    RouteResponse,
    Unreachable,
)
from mesh_wire.deadlines import duration, seconds
from mesh_wire.errors import MeshError, status_of
from mesh_wire.serving import serving
from mesh_wire.tls import ServerTls

ROUTE = RouteChosen(
    expert="math",
    replica="expert-a",
    score=0.75,
    runners_up=[ExpertScore(expert="general", score=0.25)],
    strategy="clusters",
    reason=RouteReason.ROUTE_REASON_CONFIDENT,
    explanation="it scored best with 0.75",
    attempt=1,
)
FINISHED = Finished(
    reason=FinishReason.FINISH_REASON_STOP,
    usage=Usage(prompt_tokens=7, completion_tokens=3),
    timings=StageTimings(
        classify=duration(0.001), queue=duration(0.002), prefill=duration(0.003), decode=duration(0.5)
    ),
    request_id="r-1",
)
FLEET = ListExpertsResponse(
    experts=[
        Expert(
            name="math",
            available=True,
            replicas=[
                Replica(
                    name="expert-a",
                    endpoint="127.0.0.1:50061",
                    serving=True,
                    description=DescribeResponse(
                        replica="expert-a", engine="vllm", experts=[ServedExpert(name="math", adapter="math")]
                    ),
                    load=Load(running=2, waiting=1, kv_cache_use=0.5, tokens_per_second=40),
                )
            ],
        ),
        Expert(name="general"),
    ],
    generalist="general",
    strategy="clusters",
    unreachable=[Unreachable(endpoint="127.0.0.1:50062", reason="connection refused")],
)


@dataclass
class Scripted(inference_pb2_grpc.InferenceServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """The script, and what came of it."""

    words: tuple[str, ...] = ("Fifty", " ", "six")
    refusals: list[MeshError] = field(default_factory=list)  # what the next calls end with at once
    breaks: MeshError | None = None  # what an answer ends with, instead of `finished`
    endless: bool = False  # whether an answer never ends
    as_expert: bool = False  # whether no route is told
    asked: list[GenerateRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    time_left: float | None = None  # of the latest call
    sessions: int = 0
    running: int = 0
    port: int = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[GenerateResponse, None]:
        self._note(request, _headers(context), context.time_remaining())
        async with aclosing(self._answer()) as answer:
            async for response in answer:
                yield response

    async def Session(
        self, requests: AsyncIterator[SessionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[SessionResponse, None]:
        self.sessions += 1
        outbox: asyncio.Queue[SessionResponse] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, outbox))
        try:
            while True:
                yield await outbox.get()
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read(self, requests: AsyncIterator[SessionRequest], outbox: asyncio.Queue[SessionResponse]) -> None:
        under_way: dict[int, asyncio.Task[None]] = {}
        try:
            async for message in requests:
                for start in message.starts:
                    under_way[start.stream_id] = asyncio.create_task(self._answer_start(start, outbox))
                for stream_id in message.cancels:
                    under_way[stream_id].cancel()
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    async def _answer_start(self, start: SessionStart, outbox: asyncio.Queue[SessionResponse]) -> None:
        """Answer one request of a session, one message for each event."""
        at = start.stream_id
        try:
            headers = {"traceparent": start.traceparent} if start.traceparent else {}
            self._note(start.request, headers, seconds(start.timeout) if start.HasField("timeout") else None)
            async with aclosing(self._answer()) as answer:
                async for response in answer:
                    outbox.put_nowait(_in_session(at, response))
        except MeshError as error:
            failed = SessionFailed(stream_id=at, status=status_of(error))
            outbox.put_nowait(SessionResponse(failed=[failed]))

    async def _answer(self) -> AsyncGenerator[GenerateResponse, None]:
        self.running += 1
        try:
            if not self.as_expert:
                yield GenerateResponse(route=ROUTE)
            for at, word in enumerate(self.words):
                yield GenerateResponse(delta=Delta(text=word, token_ids=[at]))
            if self.endless:
                await asyncio.Event().wait()
            if self.breaks is not None:
                raise self.breaks
            yield GenerateResponse(finished=FINISHED)
        finally:
            self.running -= 1

    async def Route(self, request: RouteRequest, context: grpc.aio.ServicerContext[Any, Any]) -> RouteResponse:
        self._note(request.request, _headers(context), context.time_remaining())
        return RouteResponse(
            route=ROUTE,
            endpoint="127.0.0.1:50061",
            scores=[ExpertScore(expert="math", score=0.75), ExpertScore(expert="general", score=0.25)],
            threshold=0.4,
            margin=0.5,
            replicas=[ReplicaWeighed(replica="expert-a", endpoint="127.0.0.1:50061", expected_wait=duration(0.25))],
            timings=StageTimings(classify=duration(0.001)),
        )

    async def ListExperts(
        self, request: ListExpertsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListExpertsResponse:
        return FLEET

    def _note(self, request: GenerateRequest, headers: dict[str, str], time_left: float | None) -> None:
        self.asked.append(request)
        self.headers.append(headers)
        self.time_left = time_left
        if self.refusals:
            raise self.refusals.pop(0)


def _headers(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _in_session(stream_id: int, response: GenerateResponse) -> SessionResponse:
    match response.WhichOneof("event"):
        case "route":
            return SessionResponse(routes=[SessionRoute(stream_id=stream_id, route=response.route)])
        case "delta":
            new = response.delta
            columns = DeltaColumns(stream_ids=[stream_id], texts=[new.text])
            columns.token_counts.append(len(new.token_ids))
            columns.token_ids.extend(new.token_ids)
            return SessionResponse(deltas=columns)
        case _:
            return SessionResponse(finished=[SessionFinished(stream_id=stream_id, finished=response.finished)])


@asynccontextmanager
async def scripted(*, tls: ServerTls | None = None, **script: Any) -> AsyncIterator[Scripted]:
    """Serve a scripted node on a free port."""
    node = Scripted(**script)

    def register(server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(node, server)
        router_pb2_grpc.add_RouterServiceServicer_to_server(node, server)

    services = ["expertmesh.v1.InferenceService", "expertmesh.v1.RouterService"]
    async with serving(register, services, address="127.0.0.1:0", grace_s=0, tls=tls) as server:
        node.port = server.port
        yield node
