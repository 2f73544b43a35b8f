"""What `production: true` makes of a mesh file: nothing open by default, and a start refused while anything is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mesh_wire.auth.sections import Acceptance, CallerSection, PeerSection

if TYPE_CHECKING:
    from mesh_wire.settings import Mesh, TicketSection

Place = tuple[str | int, ...]


def secured(data: Any) -> Any:
    """Return what a file says, with reflection off wherever a production file does not mention it."""
    if not isinstance(data, dict) or data.get("production") is not True:
        return data

    def closed(section: Any) -> Any:
        return {"reflection": False, **section} if isinstance(section, dict) else section

    experts = data.get("experts")
    changed = {"experts": [closed(one) for one in experts]} if isinstance(experts, list | tuple) else {}
    return {**data, "router": closed(data.get("router")), **changed}


def open_doors(mesh: "Mesh") -> Iterator[tuple[Place, str]]:
    """Yield what a production file must not leave open."""
    if not mesh.production:
        return
    places: list[tuple[Place, Any]] = [(("router",), mesh.router)]
    places += [(("experts", number), expert) for number, expert in enumerate(mesh.experts)]
    for place, section in places:
        if section.tls is None:
            yield place, "production asks for `tls`"
        for name in ("reflection", "channelz"):
            if getattr(section, name):
                yield (*place, name), "production leaves it off"
    if mesh.router.expert_tls is None:
        yield ("router",), "production asks for `expert_tls`"
    if mesh.callers is None:
        yield ("router",), "production asks who calls: the section `callers` is missing"
    elif mesh.callers.anonymous is not None:
        yield ("callers", "anonymous"), "production asks everybody who calls"
    for number, expert in enumerate(mesh.experts):
        if "anybody" in accepted(mesh.tickets, mesh.callers, mesh.peers, expert.accepts):
            yield (
                ("experts", number),
                "production lets only routers and tickets in: say `peers`, or give `tickets` keys",
            )


def accepted(
    tickets: "TicketSection",
    callers: CallerSection | None,
    peers: PeerSection | None,
    wanted: tuple[Acceptance, ...] | None,
) -> frozenset[str]:
    """Return whom an expert lets in: what it says, or else routers and tickets, where the mesh knows any.

    Args:
        wanted: the `accepts` of an expert.
    """
    if wanted is not None:
        return frozenset(wanted)
    by_ticket = {"tickets"} if tickets.keys else set()
    if peers is not None:
        return frozenset({"routers"} | by_ticket)
    if callers is not None or tickets.required:
        return frozenset(by_ticket)
    return frozenset({"anybody"})
