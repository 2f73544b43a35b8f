"""Reading `mesh.yaml`: everything that is wrong with it is said at once, each mistake with its line."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mesh_wire.auth import consistency
from mesh_wire.premises import Place, missing_files, port_in_use, rooted, unusable_files
from mesh_wire.prometheus import PORT_VARIABLE, address_by, addresses_of, contradictions
from mesh_wire.settings import ExpertSection, Mesh, RouterSection, Simulation
from mesh_wire.ticket_keys import key_troubles

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


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
    serving: bool = False,
) -> Mesh:
    """Read and check a mesh file. Its relative paths start at its own folder.

    `ROUTER_<FIELD>` in `env` replaces a field of `router`; `EXPERT_<FIELD>` one of the expert process that is about
    to be started, or else of the one that `EXPERT_NAME` names. Values are YAML.

    Args:
        router: the router is about to be started: its files must be there and its port free.
        experts: names of the expert processes about to be started, likewise; an empty one means the only one.
        simulated: put simulated engines in place of the real ones, which then need no files.
        serving: they serve already, so that their ports are not free.

    Raises:
        Mistakes: all that is wrong.
    """
    data, tree = _parse(path)
    starting = _starting(data, experts)
    expert_name = next(iter(starting)) if len(starting) == 1 else env.get("EXPERT_NAME", "")
    overridden, mistakes = _override(data, env, expert_name)
    overridden |= _scraped(data, env, router=router, starting=starting)

    def at(place: Place) -> str:
        if (variable := overridden.get(place[:2])) or (variable := overridden.get(place[:3])):
            return variable
        return f"{path}:{_line(tree, place)}: {_dotted(place)}" if place else f"{path}"

    mesh, errors = _validated(data)
    mistakes += [f"{at(place)}: {words}" for place, words in errors]
    if mesh is not None:
        mesh = rooted(_simulated(mesh) if simulated else mesh, path.resolve().parent)
        mistakes += [f"{at(place)}: {words}" for place, words in _contradictions(mesh)]
        sections: list[tuple[Place, RouterSection | ExpertSection]] = [(("router",), mesh.router)] if router else []
        sections += [(("experts", at), expert) for at, expert in enumerate(mesh.experts) if expert.name in starting]
        if sections:
            troubles = key_troubles(mesh.tickets, env)
            mistakes += [f"{at(('tickets', 'keys', name))}: {words}" for name, words in troubles]
            found_of_callers = consistency.unusable(mesh.callers, mesh.peers, env)
            mistakes += [f"{at(place)}: {words}" for place, words in found_of_callers]
        for place, section in sections:
            mistakes += [f"{at((*place, *more))}: {file} is not there" for more, file in missing_files(section)]
            mistakes += [f"{at((*place, *more))}: {words}" for more, words in unusable_files(section)]
            if not serving and (trouble := port_in_use(section.listen)):
                mistakes.append(f"{at((*place, 'listen'))}: {trouble}")
            if not serving:
                found = filter(None, map(port_in_use, addresses_of(section)))
                mistakes += [f"{at((*place, 'metrics'))}: {trouble}" for trouble in found]
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


def _validated(data: dict[str, Any]) -> tuple[Mesh | None, list[tuple[Place, str]]]:
    """Validate; where it fails, validate again without what was wrong, so that the rest can be checked as well.

    Unknown keys go first: a section is checked as a whole only once its parts are right, and without them it may be.
    """
    found: list[tuple[Place, str]] = []
    for ours in (_UNKNOWN_KEY, None):
        try:
            return Mesh.model_validate(data), found
        except ValidationError as error:
            wrong = [e for e in error.errors() if ours is None or e["type"] in ours]
        places = [_known(e["loc"], data) for e in wrong]
        found += [(place, _words(e)) for place, e in zip(places, wrong, strict=True)]
        for place in places:
            _remove(data, place)
    try:
        return Mesh.model_validate(data), found
    except ValidationError:
        return None, found


def _remove(data: Any, place: Place) -> None:
    try:
        for step in place[:-1]:
            data = data[step]
        data.pop(place[-1], None)
    except (AttributeError, KeyError, IndexError, TypeError):  # an item of a list, or something missing
        return


def _starting(data: dict[str, Any], names: Iterable[str]) -> set[str]:
    """Return the names of the expert processes about to be started."""
    known = [str(expert.get("name")) for expert in _sections(data)]
    return {known[0] if not name and len(known) == 1 else name for name in names}


def _sections(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what stands under `experts`, as far as it can be read; nothing where any of it cannot."""
    experts: Any = data.get("experts")
    if not isinstance(experts, list) or not all(isinstance(expert, dict) for expert in experts):
        return []
    return experts


def _override(data: dict[str, Any], env: Mapping[str, str], expert_name: str) -> tuple[dict[Place, str], list[str]]:
    """Put environment variables in the places of fields; returns place -> variable, for messages, and mistakes."""
    done: dict[Place, str] = {}
    mistakes: list[str] = []

    def put(section: dict[str, Any], place: Place, fields: Iterable[str], prefix: str) -> None:
        for field in fields:
            if (variable := f"{prefix}_{field.upper()}") in env:
                done[*place, field] = variable
                try:
                    section[field] = yaml.safe_load(env[variable])
                except yaml.YAMLError:
                    mistakes.append(f"{variable}: not YAML")

    if isinstance(data.get("router"), dict):
        put(data["router"], ("router",), RouterSection.model_fields, "ROUTER")
    for number, expert in enumerate(_sections(data)):
        if expert_name and expert.get("name") == expert_name:
            put(expert, ("experts", number), ExpertSection.model_fields.keys() - {"name"}, "EXPERT")
    return done, mistakes


def _scraped(data: dict[str, Any], env: Mapping[str, str], *, router: bool, starting: set[str]) -> dict[Place, str]:
    """Give processes about to be started the address for metrics that the environment names, where the file has none;
    returns place -> variable."""
    address = address_by(env)
    sections: list[tuple[Place, Any]] = [(("router",), data.get("router"))] if router else []
    sections += [(("experts", at), one) for at, one in enumerate(_sections(data)) if str(one.get("name")) in starting]
    done: dict[Place, str] = {}
    for place, section in sections:
        if address is not None and isinstance(section, dict) and section.get("metrics") is None:
            section["metrics"] = address
            done[*place, "metrics"] = PORT_VARIABLE
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


def _contradictions(mesh: Mesh) -> Iterable[tuple[Place, str]]:
    names = Counter(expert.name for expert in mesh.experts)
    addresses = Counter([mesh.router.listen, *(expert.listen for expert in mesh.experts)])
    yield from contradictions(mesh)
    yield from consistency.contradictions(mesh)
    for number, expert in enumerate(mesh.experts):
        if names[expert.name] > 1:
            yield ("experts", number, "name"), f"another expert process is called {expert.name} too"
        if addresses[expert.listen] > 1 and not expert.listen.endswith(":0"):
            yield ("experts", number, "listen"), f"something else of this file listens on {expert.listen} too"
    served = {name for expert in mesh.experts for name in expert.serves}
    full = {name for expert in mesh.experts for name in expert.serves if name not in expert.variants}
    for number, expert in enumerate(mesh.experts):
        for name in expert.variants:
            if name not in full and not mesh.router.targets:
                yield (
                    ("experts", number, "variants", name),
                    f"a twin of nobody: no expert process serves {name} itself; one alone stands under `serves`",
                )
    if not mesh.router.targets:
        yield from _one_sided_tls(mesh)
        if not mesh.experts:
            yield ("router",), "neither targets nor experts: there is nobody to route to"
        elif mesh.router.generalist not in served:
            yield ("router", "generalist"), f"no expert process serves {mesh.router.generalist}"
        if mesh.router.pinned and mesh.router.pinned not in served:
            yield ("router", "pinned"), f"no expert process serves {mesh.router.pinned}"


def _one_sided_tls(mesh: Mesh) -> Iterable[tuple[Place, str]]:
    """Find experts that the router would greet in plain text and that answer in TLS, or the reverse."""
    greets = mesh.router.expert_tls is not None
    for number, expert in enumerate(mesh.experts):
        if expert.tls and not greets:
            yield ("experts", number, "tls"), f"the router would ask {expert.name} in plain text"
            yield ("router",), f"`expert_tls` is missing, and {expert.name} has `tls`"
        elif greets and not expert.tls:
            yield ("router", "expert_tls"), f"the router would ask {expert.name} by TLS"
            yield ("experts", number), f"`tls` is missing in {expert.name}, and the router has `expert_tls`"
        elif expert.tls and expert.tls.client_authority and not _shown(mesh):
            yield ("experts", number, "tls", "client_authority"), "the router would show no certificate"
            yield ("router", "expert_tls"), f"`certificate` and `key` are missing, for which {expert.name} asks"


def _shown(mesh: Mesh) -> bool:
    """Whether the router shows its experts a certificate."""
    return mesh.router.expert_tls is not None and mesh.router.expert_tls.certificate is not None


def _known(place: tuple[Any, ...], data: Any) -> Place:
    """Cut a place of pydantic's off where it leaves the file: pydantic adds the names of types."""
    known: list[str | int] = []
    for step in place:
        known.append(step)
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            break
    return tuple(known)


def _line(node: Any, place: Place) -> int:
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


def _dotted(place: Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _words(error: Any) -> str:
    if error["type"] in _UNKNOWN_KEY:
        return "no such key"
    if error["type"] in ("missing", "missing_argument"):
        return "missing"
    words: str = error["msg"].removeprefix("Value error, ")
    return words[:1].lower() + words[1:]
