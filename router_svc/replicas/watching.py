"""Watches one replica: what it says it is, its health and its load, by streams that are opened anew when they break."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expertmesh.v1.expert_pb2 import DescribeRequest, DescribeResponse, Load, WatchLoadRequest
from expertmesh.v1.expert_pb2_grpc import ExpertServiceStub
from mesh_wire import inference
from mesh_wire.deadlines import duration
from mesh_wire.errors import error_of_call
from mesh_wire.open_session import Headers
from router_svc.replicas.line import Line

log = logging.getLogger(__name__)

FIRST_WORD_S = 5.0  # how long a replica may take to describe itself
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between two attempts to reach it
STALLED_PAUSE_S = 5.0  # before one that hung is tried again


class Watched(Protocol):
    """Who is told what is seen of a replica."""

    endpoint: str
    outstanding: int

    def described(self, description: DescribeResponse) -> None:
        """It has been reached, and says what it is."""

    def serves(self) -> None:
        """It says that it serves."""

    def told(self, load: Load) -> None:
        """It tells its load."""

    def in_trouble(self, why: str) -> None:
        """It does not serve, or cannot be reached."""


class Watch:
    """The watch on one replica."""

    def __init__(self, watched: Watched, line: Line, headers: Headers, pause_s: Callable[[], float]) -> None:
        """Args:
        headers: say who we are, in every call.
        pause_s: the shortest time, in seconds, between two load reports from now on.
        """
        self._watched = watched
        self._line = line
        self._headers = headers
        self._pause_s = pause_s
        self._served = False  # since the last pause
        self._cut = ""  # why the streams were, until note is taken
        self._following: list[asyncio.Task[None]] = []

    def cut(self, why: str) -> None:
        """End the streams: it hangs. It is tried again after a while."""
        self._cut = why
        for task in self._following:
            task.cancel()

    async def run(self) -> None:
        """Watch until cancelled."""
        watched, pause_s = self._watched, SHORTEST_PAUSE_S
        while True:
            try:
                await self._follow()
                watched.in_trouble(self._cut or "it ended its load reports")
            except grpc.RpcError as error:
                watched.in_trouble(str(error_of_call(error)))
            except Exception as error:  # such as an answer that is no message: grpc hands out None for it
                log.exception("%s does not speak our language", watched.endpoint)
                watched.in_trouble(f"it speaks nonsense: {type(error).__name__}")
            if self._served:
                pause_s, self._served = SHORTEST_PAUSE_S, False
            if self._cut:
                pause_s, self._cut = STALLED_PAUSE_S, ""
            if await self._line.reopen(idle=not watched.outstanding):
                log.info("%s is asked with new certificates", watched.endpoint)
            await asyncio.sleep(pause_s)  # the one retry timer: a replica that is away must not be hammered
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _follow(self) -> None:
        """Follow the replica until one of its streams ends or breaks."""
        stub = ExpertServiceStub(self._line.channel)
        described = await stub.Describe(DescribeRequest(), timeout=FIRST_WORD_S, metadata=self._headers)
        if not described.replica:
            raise ValueError("it does not name itself")
        self._watched.described(described)
        following = [asyncio.create_task(self._follow_health()), asyncio.create_task(self._follow_load(stub))]
        self._following = following
        try:
            done, _ = await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():  # else: cut
                    task.result()
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)  # the one that broke first has been told

    async def _follow_health(self) -> None:
        stub = health_pb2_grpc.HealthStub(self._line.channel)
        call = stub.Watch(  # type: ignore[attr-defined]  # missing from the published types
            health_pb2.HealthCheckRequest(service=inference.SERVICE)
        )
        try:
            async for answer in call:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    self._served = True
                    self._watched.serves()
                else:
                    self._watched.in_trouble("it says NOT_SERVING")
        finally:
            call.cancel()

    async def _follow_load(self, stub: ExpertServiceStub) -> None:
        call = stub.WatchLoad(WatchLoadRequest(shortest_pause=duration(self._pause_s())), metadata=self._headers)
        try:
            async for answer in call:
                self._watched.told(answer.load)
        finally:
            call.cancel()
