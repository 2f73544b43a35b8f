"""What a client needs to go around the router: an exchange of routes with it, and a session to each expert."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, Usage
from expertmesh.v1.router_pb2 import RouteAsk, RouteReport, RouteResponse, RouteSessionRequest
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.errors import Foreign, MeshError, Unavailable, error_of, error_of_call, status_of
from mesh_wire.session_caller import SessionCaller
from mesh_wire.telemetry import Telemetry


class Routed:
    """A decision, and the place that it holds until `report`."""

    def __init__(self, decision: RouteResponse, report: Callable[[Usage | None, MeshError | None], None]) -> None:
        self.decision = decision
        self._report = report

    def report(self, *, usage: Usage | None = None, failure: MeshError | None = None) -> None:
        """Tell the router how the request ended."""
        self._report(usage, failure)


class RouteCaller:
    """One long-lived `RouteSession`, opened when first needed and again after it broke."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RouterServiceStub(channel)
        self._exchanges: list[_Exchange] = []  # the last one is in use, the others wait for reports

    async def ask(
        self, request: GenerateRequest, deadline: Deadline, trace: Mapping[str, str], excluded: Sequence[str]
    ) -> Routed:
        """Ask who answers, and hold a place there.

        Raises:
            MeshError: as the router says; UNAVAILABLE when the exchange broke.
        """
        self._exchanges = [one for one in self._exchanges if not one.broken]
        if not self._exchanges or self._exchanges[-1].retired:
            self._exchanges.append(_Exchange(self._stub))
        return await self._exchanges[-1].ask(request, deadline, trace, excluded)

    def renew(self) -> None:
        """Ask for the next route in another exchange."""
        if self._exchanges:
            self._exchanges[-1].retired = True

    async def close(self) -> None:
        for exchange in self._exchanges:
            await exchange.close()


class _Exchange:
    def __init__(self, stub: Any) -> None:
        self.broken = False
        self.retired = False
        self._asking: dict[int, asyncio.Future[RouteResponse]] = {}
        self._last_id = 0
        self._asks: list[RouteAsk] = []
        self._reports: list[RouteReport] = []
        self._wanted = asyncio.Event()
        self._call = stub.RouteSession()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def ask(
        self, request: GenerateRequest, deadline: Deadline, trace: Mapping[str, str], excluded: Sequence[str]
    ) -> Routed:
        self._last_id = route_id = self._last_id + 1
        left_s = deadline.left_s()
        ask = RouteAsk(
            route_id=route_id,
            request=request,
            timeout=None if left_s is None else duration(left_s),
            traceparent=trace.get("traceparent", ""),
            tracestate=trace.get("tracestate", ""),
            reserve=True,
            excluded=excluded,
        )
        answer = self._asking[route_id] = asyncio.get_running_loop().create_future()
        self._asks.append(ask)
        self._wanted.set()
        try:
            decision = await answer
        except asyncio.CancelledError:
            if ask in self._asks:
                self._asks.remove(ask)
            else:
                self._report(route_id)  # the decision may be on its way, with a place
            raise
        finally:
            self._asking.pop(route_id, None)
        return Routed(decision, lambda usage, failure: self._report(route_id, usage, failure))

    async def close(self) -> None:
        self._break(Foreign("the client was closed", status=grpc.StatusCode.CANCELLED))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _report(self, route_id: int, usage: Usage | None = None, failure: MeshError | None = None) -> None:
        if not self.broken:  # else: its places ended with it
            status = None if failure is None else status_of(failure)
            self._reports.append(RouteReport(route_id=route_id, usage=usage, failure=status))
            self._wanted.set()

    async def _write(self) -> None:
        """Send asks and reports, all that has gathered in each message."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                asks, self._asks = self._asks, []
                reports, self._reports = self._reports, []
                await self._call.write(RouteSessionRequest(asks=asks, reports=reports))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader sees the same end, with its status

    async def _read(self) -> None:
        try:
            async for message in self._call:
                for one in message.answers:
                    answer = self._asking.get(one.route_id)
                    if answer is None or answer.done():
                        continue
                    if one.HasField("decision"):
                        answer.set_result(one.decision)
                    else:
                        answer.set_exception(error_of(one.failure))
            self._break(Unavailable("the router ended the exchange", reason="DRAINING", tokens_sent="0"))
        except grpc.RpcError as error:
            self._break(error_of_call(error))
        finally:
            self._break(Unavailable("the exchange of routes broke", reason="EXPERT_LOST", tokens_sent="0"))
            self._call.cancel()
            self._tasks[0].cancel()

    def _break(self, error: MeshError) -> None:
        self.broken = True
        asking, self._asking = self._asking, {}
        for answer in asking.values():
            if not answer.done():
                answer.set_exception(error)


class Ways:
    """The router's exchange and the sessions to experts, of one client."""

    def __init__(
        self, channel: grpc.aio.Channel, telemetry: Telemetry, open_expert: Callable[[str], grpc.aio.Channel]
    ) -> None:
        self.routes = RouteCaller(channel)
        self.telemetry = telemetry
        self.closed = False
        self._open_expert = open_expert
        self._experts: dict[str, tuple[grpc.aio.Channel, SessionCaller]] = {}

    def expert(self, endpoint: str) -> SessionCaller:
        """Return the session to a replica."""
        if endpoint not in self._experts:
            channel = self._open_expert(endpoint)
            self._experts[endpoint] = channel, SessionCaller(channel, self.telemetry)
        return self._experts[endpoint][1]

    async def close(self) -> None:
        self.closed = True
        await self.routes.close()
        for channel, session in self._experts.values():
            await session.close()
            await channel.close()
