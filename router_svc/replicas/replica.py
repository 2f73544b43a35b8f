"""One expert process as the router sees it: what it serves, how it is, and the session that carries its answers."""

import asyncio
import logging
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expertmesh.v1.expert_pb2 import DescribeRequest, DescribeResponse, Load, WatchLoadRequest
from expertmesh.v1.expert_pb2_grpc import ExpertServiceStub
from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import inference
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.errors import error_of_call
from mesh_wire.outlets import Outlet
from mesh_wire.session_caller import Headers, Relay, SessionCaller
from mesh_wire.telemetry import Telemetry
from mesh_wire.tickets import TicketOffice
from router_svc.choosing.candidate import Candidate, terms_of

log = logging.getLogger(__name__)

FIRST_WORD_S = 5.0  # how long a replica may take to describe itself
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between two attempts to reach it


class Replica:
    """A replica at one address, watched for as long as `watch` runs."""

    def __init__(
        self,
        endpoint: str,
        channel: grpc.aio.Channel,
        telemetry: Telemetry,
        office: TicketOffice | None = None,
        changed: "Callable[[Replica], None]" = lambda replica: None,
        pause_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Args:
        changed: is told whenever there is another candidate.
        pause_s: the shortest time, in seconds, between two load reports from now on.
        """
        self.endpoint = endpoint
        self.description = DescribeResponse()
        self.load = Load()
        self._terms = terms_of(self.load)
        self.trouble = "not reached yet"  # why it does not serve; empty while it does
        self.outstanding = 0
        self._outstanding_then = 0  # when the load was told
        self._told_at: float | None = None  # seconds of `time.monotonic`
        self._experts: frozenset[str] = frozenset()
        self._variants: dict[str, str] = {}
        self._models: dict[str, str] = {}  # expert -> what a ticket is bound to
        self._changed = changed
        self._pause_s = pause_s
        self.idle = asyncio.Event()  # set while nothing is under way there
        self.idle.set()
        self.looked = asyncio.Event()  # set once it has been tried
        self._served = False  # since the last pause
        self._channel = channel
        self._office = office
        self._session = SessionCaller(channel, telemetry, self._session_ticket)

    @property
    def candidate(self) -> Candidate:
        """What selection needs to know."""
        return Candidate(
            replica=self.description.replica,
            endpoint=self.endpoint,
            experts=self._experts,
            serving=not self.trouble,
            load=self.load,
            variants=self._variants,
            outstanding=self.outstanding,
            untold=self.outstanding - self._outstanding_then,
            max_running=self.description.max_running or 1,
            told_at=self._told_at,
            terms=self._terms,
        )

    async def ask(
        self, request: GenerateRequest, outlet: Outlet, deadline: Deadline, caller: str, relay: Relay
    ) -> None:
        """Have a request answered here; see `SessionCaller.ask`."""
        self.hold()
        try:
            await self._session.ask(request, outlet, deadline, caller, relay)
        finally:
            self.release()

    def ticket(self, expert: str, deadline: Deadline) -> str:
        """Return permission to ask this replica once; empty where the mesh has no tickets."""
        if self._office is None:
            return ""
        return self._office.for_request(self.description.replica, expert, self._models[expert], deadline)

    def _session_ticket(self) -> Headers:
        if self._office is None:
            return ()
        return ((inference.TICKET, self._office.for_session(self.description.replica)),)

    def hold(self) -> None:
        """Count a request as under way here, until `release`."""
        self.outstanding += 1
        self.idle.clear()
        self._changed(self)

    def release(self) -> None:
        self.outstanding -= 1
        if not self.outstanding:
            self.idle.set()
        self._changed(self)

    async def watch(self) -> None:
        """Keep description, load and health up to date until cancelled, then close everything."""
        pause_s = SHORTEST_PAUSE_S
        try:
            while True:
                try:
                    await self._follow()
                    self._in_trouble("it ended its load reports")
                except grpc.RpcError as error:
                    self._in_trouble(str(error_of_call(error)))
                except Exception as error:  # such as an answer that is no message: grpc hands out None for it
                    log.exception("%s does not speak our language", self.endpoint)
                    self._in_trouble(f"it speaks nonsense: {type(error).__name__}")
                if self._served:
                    pause_s, self._served = SHORTEST_PAUSE_S, False
                await asyncio.sleep(pause_s)  # the one retry timer: a replica that is away must not be hammered
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            await self._session.close()
            await self._channel.close()

    async def _follow(self) -> None:
        """Follow the replica until one of its streams ends or breaks."""
        stub = ExpertServiceStub(self._channel)
        described = await stub.Describe(DescribeRequest(), timeout=FIRST_WORD_S)
        if not described.replica:
            raise ValueError("it does not name itself")
        self._describe(described)
        following = [asyncio.create_task(self._follow_health()), asyncio.create_task(self._follow_load(stub))]
        try:
            done, _ = await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)  # the one that broke first has been told

    async def _follow_health(self) -> None:
        stub = health_pb2_grpc.HealthStub(self._channel)
        call = stub.Watch(  # type: ignore[attr-defined]  # missing from the published types
            health_pb2.HealthCheckRequest(service=inference.SERVICE)
        )
        try:
            async for answer in call:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    if self.trouble:
                        names = ", ".join(expert.name for expert in self.description.experts)
                        log.info("%s at %s serves %s", self.description.replica, self.endpoint, names)
                    self.trouble, self._served = "", True
                    self._changed(self)
                    self.looked.set()
                else:
                    self._in_trouble("it says NOT_SERVING")
        finally:
            call.cancel()

    async def _follow_load(self, stub: ExpertServiceStub) -> None:
        call = stub.WatchLoad(WatchLoadRequest(shortest_pause=duration(self._pause_s())))
        try:
            async for answer in call:
                self._tell(answer.load)
        finally:
            call.cancel()

    def _describe(self, described: DescribeResponse) -> None:
        self.description = described
        self._experts = frozenset(expert.name for expert in described.experts)
        self._variants = {expert.name: expert.variant for expert in described.experts if expert.variant}
        self._models = {expert.name: expert.adapter or described.base_model for expert in described.experts}
        self._changed(self)

    def _tell(self, load: Load) -> None:
        self.load, self._terms = load, terms_of(load)
        self._outstanding_then, self._told_at = self.outstanding, time.monotonic()
        self._changed(self)

    def _in_trouble(self, why: str) -> None:
        if why != self.trouble:
            log.warning("%s is out: %s", self.description.replica or self.endpoint, why)
        self.trouble = why
        self.load, self._outstanding_then, self._told_at = Load(), 0, None
        self._terms = terms_of(self.load)
        self._changed(self)
        self.looked.set()
