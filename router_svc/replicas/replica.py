"""One expert process as the router sees it: what it serves, how it is, and the session that carries its answers."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

import grpc

from expertmesh.v1.expert_pb2 import DescribeResponse, Load
from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import inference
from mesh_wire.deadlines import Deadline, seconds
from mesh_wire.errors import Internal, MeshError, Unavailable
from mesh_wire.open_session import Headers, Pulse, Relay
from mesh_wire.outlets import Outlet
from mesh_wire.resuming import Delivered
from mesh_wire.tickets import TicketOffice
from mesh_wire.untraced import UNTRACED, Untraced
from router_svc.choosing.candidate import Candidate, terms_of
from router_svc.replicas.line import Line
from router_svc.replicas.standing import SLOW_START_S, Standing, far_slower
from router_svc.replicas.watching import Watch

log = logging.getLogger(__name__)

COMPARED_EVERY_S = 1.0  # with its siblings
_ITS_FAULT = frozenset({Unavailable.code, Internal.code})


class Replica:
    """A replica at one address, watched for as long as `watch` runs."""

    def __init__(
        self,
        endpoint: str,
        channel: grpc.aio.Channel,
        office: TicketOffice | None = None,
        changed: "Callable[[Replica], None]" = lambda replica: None,
        pause_s: Callable[[], float] = lambda: 0.0,
        headers: Headers = (),
        reopened: Callable[[], grpc.aio.Channel | None] = lambda: None,
        peers: "Callable[[], Collection[Replica]]" = tuple,
    ) -> None:
        """Args:
        peers: all replicas of the fleet as it is now.
        changed: is told whenever there is another candidate.
        pause_s: the shortest time, in seconds, between two load reports from now on.
        headers: say who we are, in every call.
        reopened: see `Line`.
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
        self.standing = Standing()
        self.served_since = float("inf")  # seconds of `time.monotonic`; infinite: it does not serve
        self._peers = peers
        self._compared_at = 0.0  # with its siblings, in seconds of `time.monotonic`
        self._tried_again: asyncio.TimerHandle | None = None
        self._changed = changed
        self.idle = asyncio.Event()  # set while nothing is under way there
        self.idle.set()
        self.looked = asyncio.Event()  # set once it has been tried
        self._headers = headers
        self._office = office
        self._line = Line(channel, self._session_headers, reopened)
        self._watch = Watch(self, self._line, headers, pause_s)

    @property
    def candidate(self) -> Candidate:
        """What selection needs to know."""
        now = time.monotonic()
        return Candidate(
            replica=self.description.replica,
            endpoint=self.endpoint,
            experts=self._experts,
            serving=not self.trouble and self.standing.may_be_asked(self.outstanding, now),
            load=self.load,
            variants=self._variants,
            outstanding=self.outstanding,
            untold=self.outstanding - self._outstanding_then,
            max_running=self.standing.places(self.description.max_running, now),
            told_at=self._told_at,
            terms=self._terms,
        )

    async def ask(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str,
        relay: Relay,
        delivered: Delivered | None = None,
        trace: Untraced = UNTRACED,
    ) -> None:
        """Have a request answered here; see `SessionCaller.ask`."""
        self.hold()
        began = time.monotonic()
        try:
            session = self._line.session
            await session.ask(request, outlet, deadline, caller, relay, trace=trace, delivered=delivered)
        except MeshError as error:
            if error.code in _ITS_FAULT and error.reason != "DRAINING":
                self.failed(began, error)
            raise
        else:
            self._answered()
        finally:
            self.release()

    @property
    def experts(self) -> frozenset[str]:
        """What is served there."""
        return self._experts

    @property
    def told_at(self) -> float | None:
        """When it last told its load, in seconds of `time.monotonic`; None: not since it is watched."""
        return self._told_at

    def pulse(self) -> Pulse | None:
        """Return how the requests fare that are under way there; None: there are none."""
        return self._line.session.pulse()

    def give_up(self, why: str) -> None:
        """End what is under way there: it hangs. It gets nothing new before it has been reached anew."""
        self.in_trouble(why)
        self._watch.cut(why)
        self._line.abandon(Unavailable(f"{self.description.replica} hangs: {why}", reason="EXPERT_STALLED"))

    def failed(self, began: float, error: MeshError) -> None:
        """Note that a request begun at `began`, in seconds of `time.monotonic`, failed by this replica's fault."""
        now = time.monotonic()
        if self.standing.failed(began, now):
            self._leave_alone(f"it failed {self.standing.failures} times in a row, at last by {error.reason}", now)

    def _answered(self) -> None:
        if self.standing.why:
            log.info("%s is asked again", self._name)
        self.standing.answered(time.monotonic())

    def _leave_alone(self, why: str, now: float) -> None:
        if not self.spared:
            log.warning("%s is asked on, though %s: nobody else serves all that it does", self._name, why)
            return
        alone_s = self.standing.leave_alone(why, now)
        log.warning("%s is not asked for %g s: %s", self._name, alone_s, why)
        if self._tried_again is not None:
            self._tried_again.cancel()
        self._tried_again = asyncio.get_running_loop().call_later(alone_s, self._changed, self)
        self._changed(self)

    @property
    def spared(self) -> bool:
        """Whether others, in good standing, serve all that this one does."""
        others = (each.experts for each in self._peers() if each is not self and each.in_good_standing)
        return self._experts <= frozenset[str]().union(*others)

    def take_back_if_needed(self) -> None:
        """Ask it again, though it was to be left alone, where nobody else is left."""
        if self.standing.why and not self.spared:
            log.warning("%s is asked again: nobody else is left", self._name)
            self.standing.take_back(time.monotonic())
            self._changed(self)

    @property
    def in_good_standing(self) -> bool:
        """Whether it serves and is not left alone."""
        return not self.trouble and not self.standing.why

    @property
    def _name(self) -> str:
        return self.description.replica or self.endpoint

    def _join(self) -> None:
        """Note that it serves from now on; where others have done its work, it takes that up little by little."""
        now = time.monotonic()
        gently = any(
            each.in_good_standing and each.experts >= self._experts and each.served_since < now - SLOW_START_S
            for each in self._peers()
        )
        self.served_since = now
        self.standing.joins(now, gently=gently)

    def _compare(self) -> None:
        """Leave it alone where its engine is far slower than its siblings'; looked at now and then."""
        now = time.monotonic()
        if now - self._compared_at < COMPARED_EVERY_S or self.standing.why or not self.load.running:
            return
        self._compared_at = now
        siblings_s = [
            seconds(each.load.step_time)
            for each in self._peers()
            if each is not self and each.in_good_standing and each.load.running and each.experts == self._experts
        ]
        step_s = seconds(self.load.step_time)
        if far_slower(step_s, siblings_s):
            self._leave_alone(f"a step takes {1000 * step_s:.0f} ms, far longer than its siblings'", now)

    def ticket(self, expert: str, deadline: Deadline) -> str:
        """Return permission to ask this replica once; empty where the mesh has no tickets."""
        if self._office is None:
            return ""
        return self._office.for_request(self.description.replica, expert, self._models[expert], deadline)

    def _session_headers(self) -> Headers:
        if self._office is None:
            return self._headers
        return (*self._headers, (inference.TICKET, self._office.for_session(self.description.replica)))

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
        try:
            await self._watch.run()
        finally:
            if self._tried_again is not None:
                self._tried_again.cancel()
            await self._line.close()

    def described(self, description: DescribeResponse) -> None:
        """Note what it says that it is."""
        self.description = description
        self._experts = frozenset(expert.name for expert in description.experts)
        self._variants = {expert.name: expert.variant for expert in description.experts if expert.variant}
        self._models = {expert.name: expert.adapter or description.base_model for expert in description.experts}
        self._changed(self)

    def serves(self) -> None:
        """Note that it says it does."""
        if self.trouble:
            names = ", ".join(sorted(self._experts))
            log.info("%s at %s serves %s", self.description.replica, self.endpoint, names)
            self._join()
        self.trouble = ""
        self._changed(self)
        self.looked.set()

    def told(self, load: Load) -> None:
        """Note what it tells of its load."""
        self.load, self._terms = load, terms_of(load)
        self._outstanding_then, self._told_at = self.outstanding, time.monotonic()
        self._compare()
        self._changed(self)

    def in_trouble(self, why: str) -> None:
        """Note why it does not serve."""
        if why != self.trouble:
            log.warning("%s is out: %s", self.description.replica or self.endpoint, why)
        self.trouble = why
        self.served_since = float("inf")
        for each in self._peers():
            each.take_back_if_needed()
        self.load, self._outstanding_then, self._told_at = Load(), 0, None
        self._terms = terms_of(self.load)
        self._changed(self)
        self.looked.set()
