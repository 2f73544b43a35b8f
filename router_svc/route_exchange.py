"""One exchange of routes: asks and reports in, answers out, all that has gathered in each message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from expertmesh.v1.router_pb2 import RouteAnswer, RouteAsk, RouteReport, RouteSessionRequest, RouteSessionResponse
from mesh_wire.errors import BadInput, error_of, status_of
from router_svc.desk import Desk
from router_svc.places import Places

TURN = 64  # asks that are decided before others get their turn of the event loop
UNREAD = 4096  # answers that may wait for a slow reader; while there are more, no asks are read


class RouteExchange:
    """The serving end of one `RouteSession`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._places = Places(desk.admission)
        self._answers: list[RouteAnswer] = []
        self._more = asyncio.Event()  # set while there is something to write, or the end
        self._room = asyncio.Event()  # set while a slow reader holds nothing up
        self._ended = False
        self._highest = 0

    async def answers(self, requests: AsyncIterator[RouteSessionRequest]) -> AsyncGenerator[RouteSessionResponse, None]:
        """Yield answers whenever there are any; at the end, give back all places."""
        reading = asyncio.create_task(self._read(requests))
        try:
            while True:
                if self._answers:
                    answers, self._answers = self._answers, []
                    self._room.set()
                    yield RouteSessionResponse(answers=answers)
                elif self._ended:
                    break
                else:
                    self._more.clear()
                    await self._more.wait()
            await reading
        finally:
            reading.cancel()
            self._places.close()
            await asyncio.wait((reading,))
            if not reading.cancelled():
                reading.exception()  # told already

    async def _read(self, requests: AsyncIterator[RouteSessionRequest]) -> None:
        try:
            async for message in requests:
                for report in message.reports:
                    self._note(report)
                for at in range(0, len(message.asks), TURN):
                    await self._answer(message.asks[at : at + TURN])
                    if len(self._answers) > UNREAD:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._ended = True
            self._more.set()

    async def _answer(self, asks: list[RouteAsk]) -> None:
        fresh: list[RouteAsk] = []
        for ask in asks:
            if ask.route_id > self._highest:
                self._highest = ask.route_id
                fresh.append(ask)
                continue
            error = BadInput("route ids must rise", reason="STREAM_REUSED", field="asks.route_id")
            self._answers.append(RouteAnswer(route_id=ask.route_id, failure=status_of(error)))
        answers = await self._desk.answer(fresh, self._places)
        self._answers += answers  # not in one line: the list may have been taken meanwhile
        self._more.set()

    def _note(self, report: RouteReport) -> None:
        if not (expert := self._places.release(report.route_id)):
            return
        outcome = error_of(report.failure).code.name if report.HasField("failure") else "OK"
        labels = {"expertmesh.expert": expert, "rpc.response.status_code": outcome}
        instruments = self._desk.telemetry.instruments
        instruments.direct_requests.add(1, labels)
        if report.HasField("usage"):
            instruments.direct_tokens.add(report.usage.completion_tokens, labels)
