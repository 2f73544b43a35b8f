"""A node of the mesh that does as a test tells it: it speaks the router's contract, without a router behind it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
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
from mesh_wire.deadlines import duration
from mesh_wire.errors import MeshError
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
    running: int = 0
    port: int = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[GenerateResponse, None]:
        self._note(request, context)
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
        self._note(request.request, context)
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

    def _note(self, request: GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.asked.append(request)
        metadata = context.invocation_metadata() or ()
        self.headers.append({key: value for key, value in metadata if isinstance(value, str)})
        self.time_left = context.time_remaining()
        if self.refusals:
            raise self.refusals.pop(0)


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
