"""What of a mesh file's `callers`, `peers` and `accepts` does not fit together, or cannot be used on this machine."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mesh_wire.auth.keys import KeysUnusable, public_keys
from mesh_wire.auth.production import Place, accepted, open_doors
from mesh_wire.auth.sections import CallerSection, PeerSection
from mesh_wire.secret_sources import source_trouble

if TYPE_CHECKING:
    from mesh_wire.settings import Mesh


def contradictions(mesh: "Mesh") -> Iterator[tuple[Place, str]]:
    """Yield what no machine could make true."""
    yield from open_doors(mesh)
    if mesh.callers is not None:
        yield from _callers(mesh, mesh.callers)
    for number, expert in enumerate(mesh.experts):
        here = ("experts", number)
        lets_in = accepted(mesh.tickets, mesh.callers, mesh.peers, expert.accepts)
        place = (*here, "accepts") if expert.accepts is not None else here
        if not lets_in & {"routers", "tickets", "anybody"}:
            yield place, "no router could ask it: say `peers`, or give `tickets` keys"
        if "routers" in lets_in and mesh.peers is None:
            yield place, "there are no `peers` by whom it would know a router"
        if "tickets" in lets_in and not mesh.tickets.keys:
            yield place, "there are no keys under `tickets`"
        if "callers" in lets_in and mesh.callers is None:
            yield place, "there are no `callers`"
        if "anybody" in lets_in and (len(lets_in) > 1 or mesh.tickets.required):
            yield place, "anybody, and yet not everybody"
        by_certificate = "routers" in lets_in and mesh.peers is not None and mesh.peers.token is None
        if by_certificate and not (expert.tls and expert.tls.client_authority):
            yield here, "it asks for no certificates, by which `peers` are known: `tls` needs a `client_authority`"


def _callers(mesh: "Mesh", section: CallerSection) -> Iterator[tuple[Place, str]]:
    names = Counter(known.name for known in section.known)
    certificates = Counter(known.certificate for known in section.known if known.certificate)
    hashes = Counter(one for known in section.known for one in known.token_sha256)
    subjects = Counter(known.subject or known.name for known in section.known)
    served = {name for expert in mesh.experts for name in expert.serves}
    for number, known in enumerate(section.known):
        here: Place = ("callers", "known", number)
        if names[known.name] > 1:
            yield (*here, "name"), f"another caller is called {known.name} too"
        if known.certificate and certificates[known.certificate] > 1:
            yield (*here, "certificate"), "another caller is known by it too"
        if section.jwt is not None and known.subject and subjects[known.subject] > 1:
            yield (*here, "subject"), "another caller is known by it too"
        if any(hashes[one] > 1 for one in known.token_sha256):
            yield (*here, "token_sha256"), "one of them stands elsewhere too"
        if not (known.certificate or known.token_sha256 or section.jwt):
            yield here, f"{known.name} is known by nothing: `certificate`, `token_sha256`, or `jwt` beside `known`"
        if known.certificate and not (mesh.router.tls and mesh.router.tls.client_authority):
            yield (*here, "certificate"), "the router asks for no certificates: `tls` needs a `client_authority`"
        if not mesh.router.targets:
            for name in known.experts or ():
                if name not in served:
                    yield (*here, "experts"), f"no expert process serves {name}"


def unusable(
    callers: CallerSection | None, peers: PeerSection | None, env: Mapping[str, str]
) -> Iterator[tuple[Place, str]]:
    """Yield what cannot be used as it is: a key file, a secret. No reason tells anything of a secret."""
    if callers is not None and callers.jwt is not None:
        try:
            public_keys(callers.jwt.jwks)
        except KeysUnusable as error:
            yield ("callers", "jwt", "jwks"), str(error)
    if peers is not None and peers.token is not None and (words := source_trouble(peers.token, env)):
        yield ("peers", "token"), words


def rooted(
    callers: CallerSection | None, peers: PeerSection | None, folder: Path
) -> tuple[CallerSection | None, PeerSection | None]:
    """Resolve relative paths."""
    if callers is not None and callers.jwt is not None:
        jwt = callers.jwt.model_copy(update={"jwks": folder / callers.jwt.jwks})
        callers = callers.model_copy(update={"jwt": jwt})
    if peers is not None and peers.token is not None and peers.token.file is not None:
        token = peers.token.model_copy(update={"file": folder / peers.token.file})
        peers = peers.model_copy(update={"token": token})
    return callers, peers
