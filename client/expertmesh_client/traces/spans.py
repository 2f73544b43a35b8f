"""Spans as data, apart from the form that brought them."""

from dataclasses import dataclass, field
from enum import Enum

_SERVICE_PREFIX = "expertmesh-"
_NAME_PREFIXES = ("expertmesh.v1.InferenceService/", "expertmesh.v1.")


class Kind(Enum):
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened within a span, at nanoseconds since the epoch on the span's own clock."""

    name: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span. Times are nanoseconds since the epoch, on the clock of the process that ran it."""

    span_id: str
    parent_id: str = ""  # empty: the root
    name: str
    kind: Kind = Kind.INTERNAL
    service: str = ""
    start_ns: int
    end_ns: int
    failed: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took; 0 where a clock was set back meanwhile."""
        return max(0, self.end_ns - self.start_ns) / 1e9

    @property
    def tier(self) -> str:
        """Its service in one word, such as `router`."""
        return self.service.removeprefix(_SERVICE_PREFIX) or "?"

    @property
    def short_name(self) -> str:
        """Its name without what all of ours begin with."""
        return next((self.name.removeprefix(each) for each in _NAME_PREFIXES if self.name.startswith(each)), self.name)

    def event(self, name: str) -> float | None:
        """Return the seconds from its start to the first event of that name; None where there is none."""
        return next((max(0, event.at_ns - self.start_ns) / 1e9 for event in self.events if event.name == name), None)
