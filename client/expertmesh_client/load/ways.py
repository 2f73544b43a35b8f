"""The ways in which a load asks: over sessions, by a call each, or around the router.

The first two stand on the wire itself, with nothing that `AsyncClient` adds: a request that a client would quietly ask
again is an error here, and a generator that spends less per token reaches further before it becomes what is measured.
"""

import asyncio
from contextlib import aclosing
from typing import Protocol

import grpc

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, RouteChosen
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh_client.aio import AsyncClient
from expertmesh_client.load.plan import Job
from expertmesh_client.load.problems import LoadFailed
from expertmesh_client.load.reading import Reading
from expertmesh_client.tokens import shown
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import error_of_call
from mesh_wire.session_caller import SessionCaller
from mesh_wire.wire_options import channel_options

CONNECTED_WITHIN_S = 10.0


class Way(Protocol):
    """A way to ask one target."""

    async def ready(self) -> None:
        """Connect. Raises LoadFailed where that takes too long."""

    async def ask(self, request: GenerateRequest, reading: Reading, user: int, timeout_s: float | None) -> None:
        """Have one request answered into `reading`. Raises MeshError."""

    async def close(self) -> None:
        """End what is under way, and the connections."""


def way_of(job: Job, connections: int) -> Way:
    """Return the way of a job, with so many connections."""
    if job.over == "direct":
        return _Direct(job)
    return _Session(job, connections) if job.over == "session" else _Generate(job, connections)


class _Channels:
    def __init__(self, job: Job, connections: int) -> None:
        self.target = job.target
        self.headers = shown(job.token)
        # Channels of the same arguments share one connection unless told otherwise.
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        if job.tls is not None:
            options += job.tls.options()
        self.each = [
            grpc.aio.insecure_channel(job.target, options=options)
            if job.tls is None
            else grpc.aio.secure_channel(job.target, job.tls.credentials(), options=options)
            for _ in range(connections)
        ]

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(CONNECTED_WITHIN_S):
                await asyncio.gather(*(channel.channel_ready() for channel in self.each))
        except TimeoutError:
            connections = f"{len(self.each)} connection{'s' * (len(self.each) != 1)}"
            raise LoadFailed(f"{self.target} took no {connections} in {CONNECTED_WITHIN_S:g} s") from None

    async def close(self) -> None:
        for channel in self.each:
            await channel.close()


class _Session:
    """Requests share a session for each connection; its reader gives tokens to the readings, with no task between."""

    def __init__(self, job: Job, connections: int) -> None:
        self._channels = _Channels(job, connections)
        self._sessions = [SessionCaller(channel, self._channels.headers) for channel in self._channels.each]

    async def ready(self) -> None:
        await self._channels.ready()

    async def ask(self, request: GenerateRequest, reading: Reading, user: int, timeout_s: float | None) -> None:
        session = self._sessions[user % len(self._sessions)]
        await session.ask(request, reading, Deadline.after(timeout_s))

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()
        await self._channels.close()


class _Generate:
    """Each request is a call of its own."""

    def __init__(self, job: Job, connections: int) -> None:
        self._channels = _Channels(job, connections)
        self._stubs = [InferenceServiceStub(channel) for channel in self._channels.each]

    async def ready(self) -> None:
        await self._channels.ready()

    async def ask(self, request: GenerateRequest, reading: Reading, user: int, timeout_s: float | None) -> None:
        call = self._stubs[user % len(self._stubs)].Generate(
            request, timeout=timeout_s, metadata=self._channels.headers()
        )
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "delta":
                        reading.delta(response.delta.text, response.delta.token_ids)
                    case "route":
                        reading.route(response.route)
                    case "finished":
                        reading.finished(response.finished)
        except grpc.RpcError as error:
            raise error_of_call(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channels.close()


class _Direct:
    """The router decides, the experts answer: a client's own way, with what it does when a replica is lost."""

    def __init__(self, job: Job) -> None:
        self._client = AsyncClient(job.target, tls=job.tls, token=job.token, direct=True)

    async def ready(self) -> None:
        pass  # whoever started us has asked the router for its fleet

    async def ask(self, request: GenerateRequest, reading: Reading, user: int, timeout_s: float | None) -> None:
        answer = self._client.generate(
            request.prompt, expert=request.expert, sampling=request.sampling, timeout_s=timeout_s
        )
        async with aclosing(answer.events()) as events:
            async for event in events:
                match event:
                    case Delta():
                        reading.delta(event.text, event.token_ids)
                    case RouteChosen():
                        reading.route(event)
                    case Finished():
                        reading.finished(event)

    async def close(self) -> None:
        await self._client.close()
