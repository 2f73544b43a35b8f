"""What a request is to those who write on its trace, where there is none: all of it may be called, nothing is done."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from opentelemetry.trace import SpanKind

from mesh_wire.span_failure import Failure
from mesh_wire.trace_context import LEFT_OUT, WORD_FOLLOWS

Attributes = Mapping[str, Any]
About = Callable[[], Attributes]  # asked when it is exported, if it is
# What is over: name, began and ended in seconds of `time.monotonic`, attributes, how it failed; of a call, also the way
# there and its stream id.
Past = tuple[str, float, float, About, Failure | None]
PastCall = tuple[str, float, float, About, Failure | None, "Way | None", int]
Event = tuple[str, float, Attributes]
NONE: Attributes = {}
SERVER, CLIENT, INTERNAL = SpanKind.SERVER, SpanKind.CLIENT, SpanKind.INTERNAL  # an enum's own take ten times as long


def nothing() -> Attributes:
    return NONE


class Way(Protocol):
    """The way to those who were called: how they get word of what is kept."""

    def keep(self, traceparent: str, stream_id: int = 0) -> None:
        """Have the trace kept there.

        Args:
            traceparent: of the caller's span.
            stream_id: by which it is known there; 0: by that `traceparent`.
        """


class Untraced:
    """Stands for a request, or a stage of one, where nothing is noted. All of it may be called, and does nothing."""

    __slots__ = ()

    @property
    def trace_id(self) -> int:
        """0: there is no trace."""
        return 0

    def is_recording(self) -> bool:
        return False

    def headers(self) -> tuple[str, str]:
        """Return `traceparent` and `tracestate` for those who are called; empty: none."""
        return "", ""

    def given_to(self, way: Way) -> tuple[str, str]:
        """Return the headers for somebody who is called, and remember the way there, if the trace may be kept."""
        return self.headers()

    def started_at(self, way: Way, stream_id: int) -> tuple[str, str]:
        """Likewise return what the start of a session's request says; see `tail`."""
        return self.headers()

    def stage(self, name: str, kind: SpanKind = INTERNAL, about: About = nothing) -> "Untraced":
        """Return a part of the request that begins with a `with` block, and ends however the block is left."""
        return self

    def note(self, past: Past | PastCall) -> None:
        """Note a part that is over; the cheaper way, where somebody has its times anyway."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Add an attribute."""

    def describe(self, about: About) -> None:
        """Give attributes that are made only where they are exported, in place of those given so before."""

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


class Retold(Nameless):
    """Stands for all requests that the sampler left out, and that can be told of when they have ended; see `asked`.

    Nothing is noted here: whoever answers such a request keeps its times beside it.
    """

    __slots__ = ()

    def is_recording(self) -> bool:
        return True

    def started_at(self, way: Way, stream_id: int) -> tuple[str, str]:
        return WORD_FOLLOWS


UNTRACED, NAMELESS, RETOLD = Untraced(), Nameless(), Retold()


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
