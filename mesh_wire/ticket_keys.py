"""The keys that a mesh file names for tickets, read from where it says that they are."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh_wire.secret_sources import secret_of, source_trouble
from mesh_wire.section import KeySource
from mesh_wire.settings import TicketSection


@dataclass(frozen=True)
class Keys:
    """The keys of a mesh by name. The first one signs, all are believed, so that one can follow another."""

    secrets: Mapping[str, bytes]

    def __repr__(self) -> str:  # secrets stay out of logs
        return f"Keys({', '.join(self.secrets)})"


def keys_of(section: TicketSection, env: Mapping[str, str] = os.environ) -> Keys | None:
    """Return the keys; None where there are none. What `key_troubles` finds must have been put right."""
    secrets = {name: secret_of(source, env) for name, source in section.keys.items()}
    return Keys(secrets) if secrets else None


def key_troubles(section: TicketSection, env: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the name of each key that cannot be used, with the reason. No reason tells anything of a secret."""
    found = ((name, source_trouble(source, env)) for name, source in section.keys.items())
    return ((name, trouble) for name, trouble in found if trouble)


def rooted(section: TicketSection, folder: Path) -> TicketSection:
    """Resolve relative paths."""

    def source(one: KeySource) -> KeySource:
        return one if one.file is None else KeySource(file=folder / one.file)

    return section.model_copy(update={"keys": {name: source(one) for name, one in section.keys.items()}})
