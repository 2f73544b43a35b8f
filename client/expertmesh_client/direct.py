"""An answer around the router: its decision, and then the expert's own words."""

import grpc

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, RouteChosen, Usage
from expertmesh_client.calls import Gathering
from expertmesh_client.places import Place, Places
from expertmesh_client.routes import Routed
from expertmesh_client.ways import Ways
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, Foreign, MeshError, Unauthenticated, Unavailable
from mesh_wire.outlets import StreamOutlet
from mesh_wire.untraced import CLIENT, Attributes, Untraced

_ROUTE: Attributes = {"rpc.system.name": "grpc", "rpc.method": "expertmesh.v1.RouterService/RouteSession"}


class DirectCall(Gathering):
    """An answer that comes from its expert itself, by a router's decision."""

    def __init__(self, places: Places, request: GenerateRequest, timeout_s: float | None, trace: Untraced) -> None:
        self._ways = _ways(places.now)
        self._trace = trace
        super().__init__(places, request, timeout_s)

    def _renew(self, place: Place) -> None:
        _ways(place).routes.renew()

    async def _ask_once(self, place: Place, deadline: Deadline) -> None:
        """Ask for a route and follow it; once more, by another route, where its replica refuses or is lost.

        A ticket whose time was over before its replica saw it is replaced once; the replica may be the same.
        """
        self._ways = _ways(place)
        excluded: list[str] = []
        late = False
        refusal: MeshError | None = None
        expert = ""
        while True:
            try:
                routed = await self._route(deadline, excluded)
            except MeshError as nobody:
                raise refusal or nobody from None  # what the replica said tells more than that it was the only one
            chosen = routed.decision.route
            if isinstance(refusal, Busy) and chosen.expert != expert:  # a busy one's other replicas are as good
                routed.report(failure=refusal)
                raise refusal
            try:
                await self._follow(routed, deadline)
                return
            except Unauthenticated as error:
                if late or error.reason != "TICKET_EXPIRED":
                    raise
                late = True
            except (Busy, Unavailable) as error:
                if refusal is not None or self._begun:
                    raise
                refusal, expert = error, chosen.expert
                excluded.append(routed.decision.endpoint)

    async def _route(self, deadline: Deadline, excluded: list[str]) -> Routed:
        with self._trace.stage("route", CLIENT, lambda: _ROUTE) as route:
            headers = route.given_to(self._ways.told)
            return await self._ways.routes.ask(self._request, deadline, headers, excluded)

    async def _follow(self, routed: Routed, deadline: Deadline) -> None:
        decision = routed.decision
        request = GenerateRequest()
        request.CopyFrom(self._request)
        request.expert = decision.route.expert
        note = _Note(self._outlet, decision.route)
        host, _, port = decision.endpoint.rpartition(":")
        about: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": "expertmesh.v1.InferenceService/Session",
            "server.address": host,
            "server.port": int(port),
            "expertmesh.expert": decision.route.expert,
            "expertmesh.replica": decision.route.replica,
        }
        failure: MeshError | None = Foreign("the caller left", status=grpc.StatusCode.CANCELLED)
        try:
            with (
                self._trace.stage("expert call", CLIENT, lambda: about) as call,
                self._ways.expert(decision.endpoint) as expert,
            ):
                await expert.ask(
                    request,
                    self._outlet,
                    deadline,
                    relay=note,
                    trace=call,
                    ticket=decision.ticket,
                    delivered=self._moving.delivered,
                )
            failure = None
        except MeshError as error:
            failure = error
            raise
        finally:
            routed.report(usage=note.usage, failure=failure)


def _ways(place: Place) -> Ways:
    assert place.ways is not None, "opened with a client that goes around its routers"
    return place.ways


class _Note:
    """Gives the route before an answer's first event, and keeps the usage of its last; see `Relay`."""

    def __init__(self, outlet: StreamOutlet, chosen: RouteChosen) -> None:
        self.usage: Usage | None = None
        self._outlet = outlet
        self._chosen = chosen

    def begin(self) -> None:
        self._outlet.route(self._chosen)

    def end(self, finished: Finished) -> None:
        self.usage = finished.usage
