"""The guards and gates that a mesh file asks for: of its router, and of each of its experts."""

from collections.abc import Mapping

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.answering import Gate
from mesh_wire.auth.callers import Kind, calling
from mesh_wire.auth.guard import Guard
from mesh_wire.auth.identity import AUTHORIZATION, Identities
from mesh_wire.auth.production import accepted
from mesh_wire.auth.sections import CallerSection, PeerSection
from mesh_wire.deadlines import Deadline
from mesh_wire.open_session import Headers
from mesh_wire.secret_sources import secret_of
from mesh_wire.settings import ExpertSection, Mesh, TicketSection
from mesh_wire.telemetry import Telemetry
from mesh_wire.ticket_keys import keys_of
from mesh_wire.tickets import TicketGate


def router_guard(mesh: Mesh, telemetry: Telemetry) -> Guard | None:
    """Return what asks a router's callers who they are; None where everybody may do everything.

    Raises:
        KeysUnusable: there are no keys for JSON Web Tokens where the file says that they are.
    """
    if mesh.callers is None:
        return None
    workers = mesh.router.workers
    return Guard(
        Identities(mesh.callers, mesh.peers, workers=workers),
        telemetry,
        kinds=(Kind.KNOWN, Kind.PEER),
        anonymous=mesh.callers.anonymous,
        workers=workers,
    )


def expert_guard(
    section: ExpertSection,
    tickets: TicketSection,
    callers: CallerSection | None,
    peers: PeerSection | None,
    telemetry: Telemetry,
) -> Guard | None:
    """Return what asks an expert's callers who they are; None where everybody may ask, or whoever has a ticket.

    Raises:
        KeysUnusable: as `router_guard`.
    """
    lets_in = accepted(tickets, callers, peers, section.accepts)
    if lets_in & {"anybody"} or lets_in == {"tickets"}:
        return None
    callers = callers if "callers" in lets_in else None
    kinds = {kind for kind, word in ((Kind.KNOWN, "callers"), (Kind.PEER, "routers")) if word in lets_in}
    return Guard(
        Identities(callers, peers if "routers" in lets_in else None),
        telemetry,
        kinds=kinds,
        anonymous=callers.anonymous if callers else None,
        tickets="tickets" in lets_in,
    )


def expert_gate(
    section: ExpertSection,
    tickets: TicketSection,
    callers: CallerSection | None,
    peers: PeerSection | None,
    models: Mapping[str, str],
) -> Gate | None:
    """Return what asks an expert's callers for tickets; None where nobody needs one.

    Args:
        models: the experts served here, with the model behind each.
    """
    keys = keys_of(tickets) if "tickets" in accepted(tickets, callers, peers, section.accepts) else None
    return _OrKnown(TicketGate(keys, section.name, models)) if keys else None


def peer_headers(peers: PeerSection | None) -> Headers:
    """Return what a router shows of itself in each call to an expert, beside its certificate."""
    if peers is None or peers.token is None:
        return ()
    return ((AUTHORIZATION, f"Bearer {secret_of(peers.token).decode()}"),)


class _OrKnown:
    """Asks those for tickets whom the guard did not know."""

    def __init__(self, gate: TicketGate) -> None:
        self._gate = gate

    def session(self, ticket: str) -> bool:
        return calling() is not None or self._gate.session(ticket)

    def request(self, ticket: str, request: GenerateRequest, deadline: Deadline) -> Deadline:
        return deadline if calling() is not None else self._gate.request(ticket, request, deadline)
