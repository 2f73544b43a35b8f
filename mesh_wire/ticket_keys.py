"""The keys that a mesh file names for tickets, read from where it says that they are."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh_wire.settings import KeySource, TicketSection

SHORTEST = 32  # bytes: what HS256 asks for


@dataclass(frozen=True)
class Keys:
    """The keys of a mesh by name. The first one signs, all are believed, so that one can follow another."""

    secrets: Mapping[str, bytes]

    def __repr__(self) -> str:  # secrets stay out of logs
        return f"Keys({', '.join(self.secrets)})"


def keys_of(section: TicketSection, env: Mapping[str, str] = os.environ) -> Keys | None:
    """Return the keys; None where there are none. What `key_troubles` finds must have been put right."""
    secrets = {name: _secret(source, env) for name, source in section.keys.items()}
    return Keys(secrets) if secrets else None


def key_troubles(section: TicketSection, env: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the name of each key that cannot be used, with the reason. No reason tells anything of a secret."""
    for name, source in section.keys.items():
        try:
            secret = _secret(source, env)
        except KeyError:
            yield name, f"the environment has no {source.env}"
        except OSError as error:
            yield name, f"{source.file}: {error.strerror or 'cannot be read'}"
        else:
            if len(secret) < SHORTEST:
                yield name, f"a key has at least {SHORTEST} bytes"


def rooted(section: TicketSection, folder: Path) -> TicketSection:
    """Resolve relative paths."""

    def source(one: KeySource) -> KeySource:
        return one if one.file is None else KeySource(file=folder / one.file)

    return section.model_copy(update={"keys": {name: source(one) for name, one in section.keys.items()}})


def _secret(source: KeySource, env: Mapping[str, str]) -> bytes:
    if source.env is not None:
        return env[source.env].encode()
    assert source.file is not None, "a source has one of the two"
    return source.file.read_bytes().strip()
