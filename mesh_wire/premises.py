"""What a mesh file needs of the machine: files in their places, addresses that can be listened on."""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mesh_wire import ticket_keys
from mesh_wire.auth import consistency
from mesh_wire.settings import ExpertSection, Mesh, RouterSection

Place = tuple[str | int, ...]  # where in the file: keys and numbers of items


def rooted(mesh: Mesh, folder: Path) -> Mesh:
    """Resolve relative paths. A model that is no folder there is left to vLLM, as a hub's id."""

    def tls(section: RouterSection | ExpertSection) -> dict[str, Any]:
        if section.tls is None:
            return {}
        files = {f: folder / p for f in ("certificate", "key", "client_authority") if (p := getattr(section.tls, f))}
        return {"tls": type(section.tls)(**files)}

    def expert(section: ExpertSection) -> ExpertSection:
        changed = tls(section)
        changed["serves"] = {name: adapter and folder / adapter for name, adapter in section.serves.items()}
        model = (section.vllm or {}).get("model")
        if isinstance(model, str) and (model.count("/") > 1 or model.startswith(".") or (folder / model).exists()):
            changed["vllm"] = {**(section.vllm or {}), "model": str((folder / model).resolve())}
        return section.model_copy(update=changed)

    changed = tls(mesh.router)
    if mesh.router.artefact is not None:
        changed["artefact"] = folder / mesh.router.artefact
    if (outward := mesh.router.expert_tls) is not None:
        files = {f: folder / p for f in ("authority", "certificate", "key") if (p := getattr(outward, f))}
        changed["expert_tls"] = type(outward)(**files, server_name=outward.server_name)
    callers, peers = consistency.rooted(mesh.callers, mesh.peers, folder)
    return mesh.model_copy(
        update={
            "callers": callers,
            "peers": peers,
            "router": mesh.router.model_copy(update=changed),
            "tickets": ticket_keys.rooted(mesh.tickets, folder),
            "experts": tuple(expert(section) for section in mesh.experts),
        }
    )


def missing_files(section: RouterSection | ExpertSection) -> Iterable[tuple[Place, Path]]:
    """Yield each file or folder that a process needs and that is not there, with its place in the section."""
    wanted: list[tuple[Place, Path | None]] = []
    if isinstance(section, RouterSection):
        wanted.append((("artefact",), section.artefact))
        if (outward := section.expert_tls) is not None:
            wanted += [(("expert_tls", part), getattr(outward, part)) for part in ("authority", "certificate", "key")]
    else:
        wanted += [(("serves", name), adapter) for name, adapter in section.serves.items()]
        model = (section.vllm or {}).get("model")
        if isinstance(model, str) and Path(model).is_absolute():
            wanted.append((("vllm", "model"), Path(model)))
    if section.tls is not None:
        wanted += [(("tls", part), getattr(section.tls, part)) for part in ("certificate", "key", "client_authority")]
    return ((place, file) for place, file in wanted if file is not None and not file.exists())


def unusable_files(section: RouterSection | ExpertSection) -> Iterable[tuple[Place, str]]:
    """Yield what is wrong with the certificates and keys of a section, each with its place in it."""
    if section.tls is not None:
        yield from ((("tls", part), f"{getattr(section.tls, part)} {words}") for part, words in section.tls.faults())
    if isinstance(section, RouterSection) and (outward := section.expert_tls) is not None:
        yield from ((("expert_tls", part), _said(getattr(outward, part), words)) for part, words in outward.faults())


def _said(file: Path | None, words: str) -> str:
    return f"{file} {words}" if file else words


def port_in_use(address: str) -> str | None:
    """Say why an address cannot be listened on; None if it can."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        return f"cannot listen on {address}: {error.strerror or error}"
    except UnicodeError:  # of the name's look-up
        return f"cannot listen on {address}: no such name is possible"
    return None
