"""Reading `mesh.yaml`: everything that is wrong with it is said at once, each mistake with its line."""

import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mesh_wire.settings import ExpertSection, Mesh, RouterSection, Simulation

_Place = tuple[str | int, ...]


class Mistakes(ValueError):
    """What is wrong with a configuration; one line each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


def read(
    path: Path,
    env: Mapping[str, str] = os.environ,
    *,
    router: bool = False,
    experts: Iterable[str] = (),
    simulated: bool = False,
) -> Mesh:
    """Read and check a mesh file. Its relative paths start at its own folder.

    `ROUTER_<FIELD>` in `env` replaces a field of `router`; `EXPERT_<FIELD>` one of the expert process that
    `EXPERT_NAME` names. Values are YAML.

    Args:
        router: the router is about to be started: its files must be there and its port free.
        experts: names of the expert processes about to be started, likewise.
        simulated: put simulated engines in place of the real ones, which then need no files.

    Raises:
        Mistakes: all that is wrong.
    """
    data, tree = _parse(path)
    overridden = _override(data, env)

    def at(place: _Place) -> str:
        if (variable := overridden.get(place[:2])) or (variable := overridden.get(place[:3])):
            return variable
        return f"{path}:{_line(tree, place)}: {_dotted(place)}" if place else f"{path}"

    mesh, errors = _validated(data)
    mistakes = [f"{at(place)}: {words}" for place, words in errors]
    if mesh is not None:
        mesh = _rooted(_simulated(mesh) if simulated else mesh, path.resolve().parent)
        mistakes += [f"{at(place)}: {words}" for place, words in _contradictions(mesh)]
        wanted = [(("experts", at), expert) for at, expert in enumerate(mesh.experts) if expert.name in set(experts)]
        starting: list[tuple[_Place, RouterSection | ExpertSection]] = [(("router",), mesh.router)] if router else []
        for place, section in [*starting, *wanted]:
            mistakes += [f"{at((*place, *more))}: {file} is not there" for more, file in _missing_files(section)]
            if trouble := _port_in_use(section.listen):
                mistakes.append(f"{at((*place, 'listen'))}: {trouble}")
    if mistakes or mesh is None:
        raise Mistakes(mistakes)
    return mesh


def _parse(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the file's content, and its tree of nodes, which know their lines."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise Mistakes([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise Mistakes([f"{path}: not UTF-8 text"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise Mistakes([f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}"]) from None
    if not isinstance(data, dict):
        raise Mistakes([f"{path}:1: expected the sections router and experts"])
    return data, tree


def _validated(data: dict[str, Any]) -> tuple[Mesh | None, list[tuple[_Place, str]]]:
    """Validate; where it fails, validate again without what was wrong, so that the rest can be checked as well."""
    try:
        return Mesh.model_validate(data), []
    except ValidationError as error:
        errors = [(_known(e["loc"], data), _words(e)) for e in error.errors()]
    for place, _ in errors:
        inner: Any = data
        try:
            for step in place[:-1]:
                inner = inner[step]
            inner.pop(place[-1], None)
        except (AttributeError, KeyError, IndexError, TypeError):
            continue
    try:
        return Mesh.model_validate(data), errors
    except ValidationError:
        return None, errors


def _missing_files(section: RouterSection | ExpertSection) -> Iterable[tuple[_Place, Path]]:
    """Yield each file or folder that a process needs and that is not there, with its place in the section."""
    wanted: list[tuple[_Place, Path | None]] = []
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


def _port_in_use(address: str) -> str | None:
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
    return None


def _override(data: dict[str, Any], env: Mapping[str, str]) -> dict[_Place, str]:
    """Put environment variables in the places of fields; returns place -> variable, for messages."""
    done: dict[_Place, str] = {}
    if isinstance(data.get("router"), dict):
        for field in RouterSection.model_fields:
            if (variable := f"ROUTER_{field.upper()}") in env:
                data["router"][field] = yaml.safe_load(env[variable])
                done["router", field] = variable
    experts = data.get("experts")
    for number, expert in enumerate(experts if isinstance(experts, list) else ()):
        if not isinstance(expert, dict) or expert.get("name") != env.get("EXPERT_NAME"):
            continue
        for field in ExpertSection.model_fields.keys() - {"name"}:
            if (variable := f"EXPERT_{field.upper()}") in env:
                expert[field] = yaml.safe_load(env[variable])
                done["experts", number, field] = variable
    return done


def _simulated(mesh: Mesh) -> Mesh:
    """Replace every real engine by a simulated one that serves the same experts."""

    def expert(section: ExpertSection) -> ExpertSection:
        if section.simulated is not None:
            return section
        return section.model_copy(
            update={"vllm": None, "simulated": Simulation(), "serves": dict.fromkeys(section.serves)}
        )

    return mesh.model_copy(update={"experts": tuple(expert(section) for section in mesh.experts)})


def _rooted(mesh: Mesh, folder: Path) -> Mesh:
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
    return mesh.model_copy(
        update={
            "router": mesh.router.model_copy(update=changed),
            "experts": tuple(expert(section) for section in mesh.experts),
        }
    )


def _contradictions(mesh: Mesh) -> Iterable[tuple[_Place, str]]:
    names = Counter(expert.name for expert in mesh.experts)
    addresses = Counter([mesh.router.listen, *(expert.listen for expert in mesh.experts)])
    for number, expert in enumerate(mesh.experts):
        if names[expert.name] > 1:
            yield ("experts", number, "name"), f"another expert process is called {expert.name} too"
        if addresses[expert.listen] > 1 and not expert.listen.endswith(":0"):
            yield ("experts", number, "listen"), f"something else of this file listens on {expert.listen} too"
    served = {name for expert in mesh.experts for name in expert.serves}
    if not mesh.router.targets:
        if not mesh.experts:
            yield ("router",), "neither targets nor experts: there is nobody to route to"
        elif mesh.router.generalist not in served:
            yield ("router", "generalist"), f"no expert process serves {mesh.router.generalist}"
        if mesh.router.pinned and mesh.router.pinned not in served:
            yield ("router", "pinned"), f"no expert process serves {mesh.router.pinned}"


def _known(place: tuple[Any, ...], data: Any) -> _Place:
    """Cut a place of pydantic's off where it leaves the file: pydantic adds the names of types."""
    known: list[str | int] = []
    for step in place:
        known.append(step)
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            break
    return tuple(known)


def _line(node: Any, place: _Place) -> int:
    """Return the line, from 1, of the deepest part of `place` that the file has."""
    line: int = node.start_mark.line + 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _dotted(place: _Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _words(error: Any) -> str:
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "no such key"
        case "missing" | "missing_argument":
            return "missing"
    words: str = error["msg"].removeprefix("Value error, ")
    return words[:1].lower() + words[1:]
