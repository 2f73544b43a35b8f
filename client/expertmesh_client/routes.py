"""What a client needs to be told routes: an exchange with the router, asks and reports out, decisions in."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest, Usage
from expertmesh.v1.router_pb2 import RouteAsk, RouteReport, RouteResponse, RouteSessionRequest
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.errors import Foreign, MeshError, Unavailable, error_of, error_of_stream, status_of
from mesh_wire.open_session import Headers
from mesh_wire.wire_options import SESSION_AGE_S

LAST_WORDS_S = 1.0  # in which the last reports must have reached the router when the client is closed


class Routed:
    """A decision, and the place that it holds until `report`."""

    def __init__(self, decision: RouteResponse, report: Callable[[Usage | None, MeshError | None], None]) -> None:
        self.decision = decision
        self._report = report

    def report(self, *, usage: Usage | None = None, failure: MeshError | None = None) -> None:
        """Tell the router how the request ended."""
        self._report(usage, failure)


class RouteCaller:
    """One long-lived `RouteSession`, opened when first needed, and again when it broke or has grown old.

    As with a `SessionCaller`'s, an old one ends once every place that was given through it has been reported on.
    """

    def __init__(
        self, channel: grpc.aio.Channel, headers: Callable[[], Headers] = tuple, *, age_s: float = SESSION_AGE_S
    ) -> None:
        """`headers` gives the metadata with which each exchange is opened."""
        self._headers = headers
        self._stub = RouterServiceStub(channel)
        self._age_s = age_s
        self._exchanges: list[_Exchange] = []  # the last one may be in use, the others wait for reports

    async def ask(
        self, request: GenerateRequest, deadline: Deadline, trace: tuple[str, str], excluded: Sequence[str]
    ) -> Routed:
        """Ask who answers, and hold a place there. `trace` is `traceparent` and `tracestate`; empty: none.

        Raises:
            MeshError: as the router says; UNAVAILABLE when the exchange broke.
        """
        self._exchanges = [one for one in self._exchanges if not one.broken]
        if self._exchanges and time.monotonic() >= self._exchanges[-1].old_at:
            self.renew()
        if not self._exchanges or self._exchanges[-1].retired:
            self._exchanges.append(_Exchange(self._stub, self._headers(), time.monotonic() + self._age_s))
        return await self._exchanges[-1].ask(request, deadline, trace, excluded)

    def renew(self) -> None:
        """Ask for the next route in another exchange."""
        if self._exchanges:
            self._exchanges[-1].retire()

    async def close(self) -> None:
        for exchange in self._exchanges:
            await exchange.close()


class _Exchange:
    def __init__(self, stub: Any, headers: Headers, old_at: float) -> None:
        self.broken = False
        self.retired = False
        self.old_at = old_at  # seconds of `time.monotonic` from which it is asked no more
        self._held = 0  # asks whose end has not been reported
        self._asking: dict[int, asyncio.Future[RouteResponse]] = {}
        self._last_id = 0
        self._asks: list[RouteAsk] = []
        self._reports: list[RouteReport] = []
        self._wanted = asyncio.Event()
        self._call = stub.RouteSession(metadata=headers)
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def ask(
        self, request: GenerateRequest, deadline: Deadline, trace: tuple[str, str], excluded: Sequence[str]
    ) -> Routed:
        self._last_id = route_id = self._last_id + 1
        left_s = deadline.left_s()
        ask = RouteAsk(
            route_id=route_id,
            request=request,
            timeout=None if left_s is None else duration(left_s),
            traceparent=trace[0],
            tracestate=trace[1],
            reserve=True,
            excluded=excluded,
        )
        answer = self._asking[route_id] = asyncio.get_running_loop().create_future()
        self._asks.append(ask)
        self._held += 1
        self._wanted.set()
        try:
            decision = await answer
        except asyncio.CancelledError:
            if ask in self._asks:
                self._asks.remove(ask)
                self._let_go()
            else:
                self._report(route_id)  # the decision may be on its way, with a place
            raise
        except MeshError:
            self._let_go()
            raise
        finally:
            self._asking.pop(route_id, None)
        return Routed(decision, lambda usage, failure: self._report(route_id, usage, failure))

    def retire(self) -> None:
        """End the exchange once every ask's end has been reported."""
        self.retired = True
        self._wanted.set()

    async def close(self) -> None:
        """End the exchange at once, but for reports that are still to be written: the router counts by them."""
        closed = Foreign("the client was closed", status=grpc.StatusCode.CANCELLED)
        if not self.broken:
            self._fail_asks(closed)
            self._held = 0
            self.retire()
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        self._break(closed)
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _report(self, route_id: int, usage: Usage | None = None, failure: MeshError | None = None) -> None:
        if not self.broken:  # else: its places ended with it
            status = None if failure is None else status_of(failure)
            self._reports.append(RouteReport(route_id=route_id, usage=usage, failure=status))
            self._let_go()

    def _let_go(self) -> None:
        self._held -= 1
        self._wanted.set()

    async def _write(self) -> None:
        """Send asks and reports, all that has gathered in each message."""
        try:
            while self._held > 0 or self._reports or not self.retired:
                await self._wanted.wait()
                self._wanted.clear()
                asks, self._asks = self._asks, []
                reports, self._reports = self._reports, []
                if asks or reports:
                    await self._call.write(RouteSessionRequest(asks=asks, reports=reports))
            await self._call.done_writing()
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
            self._break(error_of_stream(error))
        finally:
            self._break(Unavailable("the exchange of routes broke", reason="EXPERT_LOST", tokens_sent="0"))
            self._call.cancel()
            self._tasks[0].cancel()

    def _break(self, error: MeshError) -> None:
        self.broken = True
        self._fail_asks(error)

    def _fail_asks(self, error: MeshError) -> None:
        asking, self._asking = self._asking, {}
        for answer in asking.values():
            if not answer.done():
                answer.set_exception(error)
