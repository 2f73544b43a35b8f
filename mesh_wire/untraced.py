"""What a request is to those who write on its trace, where there is none: all of it may be called, nothing is done."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from opentelemetry.trace import SpanKind

from mesh_wire.trace_context import LEFT_OUT

Attributes = Mapping[str, Any]
About = Callable[[], Attributes]  # asked when it is exported, if it is
NONE: Attributes = {}


def nothing() -> Attributes:
    return NONE


class Untraced:
    """Stands for a request, or a stage of one, where nothing is noted. All of it may be called, and does nothing."""

    __slots__ = ()
    tells = False  # whether those who are called may get word; see `tail`

    @property
    def trace_id(self) -> int:
        """0: there is no trace."""
        return 0

    def is_recording(self) -> bool:
        return False

    def headers(self) -> tuple[str, str]:
        """Return `traceparent` and `tracestate` for those who are called; empty: none."""
        return "", ""

    def given_to(self, traceparent: str, tell: Callable[[str], None]) -> None:
        """Remember that somebody was called with this header, whom `tell` gives word where the trace is to be kept."""

    def stage(self, name: str, kind: SpanKind = SpanKind.INTERNAL, about: About = nothing) -> "Untraced":
        """Return a part of the request that begins with a `with` block, and ends however the block is left."""
        return self

    def past(
        self, name: str, began: float, ended: float, about: About = nothing, error: BaseException | None = None
    ) -> None:
        """Note a part that is over, by seconds of `time.monotonic`; the cheaper way, where somebody has them anyway."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Add an attribute."""

    def describe(self, about: About) -> None:
        """Add attributes that are made only where they are exported; of a stage, in place of those it has."""

    def first_token(self, at: float | None) -> None:
        """Note when the first token came, in seconds of `time.monotonic`; None: it did not."""

    def fail(self, error: BaseException) -> None:
        """Note what went wrong."""

    def end(self) -> None:
        """The second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; an error is named on it."""


class Nameless(Untraced):
    """Stands for all requests that the sampler left out, of which nobody will want anything."""

    __slots__ = ()

    def headers(self) -> tuple[str, str]:
        return LEFT_OUT, ""


UNTRACED, NAMELESS = Untraced(), Nameless()


class LeftOut(Untraced):
    """As `Nameless`, of a trace that has a name elsewhere."""

    __slots__ = ("_trace_id", "_traceparent", "_tracestate")

    def __init__(self, trace_id: int, traceparent: str, tracestate: str) -> None:
        self._trace_id = trace_id
        self._traceparent = traceparent
        self._tracestate = tracestate

    @property
    def trace_id(self) -> int:
        return self._trace_id

    def headers(self) -> tuple[str, str]:
        return self._traceparent, self._tracestate
