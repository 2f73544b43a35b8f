"""What is noted of a request in this process, until it is known whether it becomes spans.

Of a hundred traces the sampler may want one, and the tail another. So a request is noted as cheaply as can be: one
`Sketch` with the times of its stages, in seconds of `time.monotonic`; what costs more (attributes, spans of the SDK) is
made of it where it is exported.
"""

import time
from collections.abc import Callable, Sequence
from random import getrandbits
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from opentelemetry.trace import SpanKind

from mesh_wire.errors import MeshError
from mesh_wire.trace_context import FLAGS, VENDOR, Caller, Verdict
from mesh_wire.untraced import NONE, About, Attributes, Untraced, nothing

MOST_SPANS = 64  # of one request in one process; what comes after them is not noted
MOST_EVENTS = 128  # of one span, as the SDK has it by default


class Failure(NamedTuple):
    """How a request or a stage failed."""

    status: str
    kind: str
    message: str | None = None
    is_fault: bool = True  # a caller's leaving is none


def failure_of(error: BaseException) -> Failure:
    if isinstance(error, MeshError):
        return Failure(error.code.name, error.reason, error.message)
    if isinstance(error, Exception):
        return Failure("INTERNAL", type(error).__qualname__)
    return Failure("CANCELLED", "CANCELLED", is_fault=False)  # CancelledError, GeneratorExit: the caller left


class Keeper(Protocol):
    """Who knows what becomes of a sketch."""

    def ended(self, sketch: "Sketch") -> None:
        """Take a request that has ended."""

    def export(self, sketch: "Sketch", part: "Stage | Sketch") -> None:
        """Send a part of it, or itself."""


_Past = tuple[str, float, float, About]  # a stage that is over: name, began, ended, attributes


class Sketch(Untraced):
    """One request, or one call, in this process."""

    # Without slots: what is rarely set stands here once, and costs a request nothing.
    kept = False  # what ends is exported at once
    dropped = False  # what ends is forgotten
    failed = False  # any part of it
    failure: Failure | None = None
    tells = True  # unless it is sampled anyway, or the caller cannot
    verdict: Verdict | None = None
    first_at: float | None = None  # when the first token came; None: it did not, or long ago
    ended = 0.0  # 0: it is under way
    events: Sequence[tuple[str, float, Attributes]] = ()
    _epoch_ns = 0

    def __init__(
        self, keeper: Keeper, trace_id: int, flags: int, caller: Caller, name: str, kind: SpanKind, about: Attributes
    ) -> None:
        """`about` is neither changed nor copied."""
        self.keeper = keeper
        self._trace_id = trace_id
        self.span_id = getrandbits(64) or 1  # 0 is none
        self.flags = flags
        self.caller = caller
        self.name = name
        self.kind = kind
        if caller.verdict is not None:
            self.verdict = caller.verdict
        self.stages: list[Stage | _Past] = []  # that have ended, and wait
        self.calls: list[tuple[str, Callable[[str], None]]] = []  # traceparents given on, and whom to tell
        self._about = about
        self._described: list[About] = []
        self._set: dict[str, Any] = {}
        self.began = time.monotonic()

    @property
    def trace_id(self) -> int:
        return self._trace_id

    @property
    def attributes(self) -> dict[str, Any]:
        """What its span has, or would have by now."""
        found = dict(self._about)
        for about in self._described:
            found.update(about())
        return found | self._set

    def is_recording(self) -> bool:
        return not self.ended

    def headers(self) -> tuple[str, str]:
        return self._headers(self.span_id)

    def _headers(self, span_id: int) -> tuple[str, str]:
        others, span_hex = self.caller.tracestate, f"{span_id:016x}"
        traceparent = f"00-{self._trace_id:032x}-{span_hex}-{FLAGS[self.flags]}"
        if not self.tells:
            return traceparent, others
        return traceparent, f"{VENDOR}={span_hex},{others}" if others else f"{VENDOR}={span_hex}"

    def given_to(self, traceparent: str, tell: Callable[[str], None]) -> None:
        if self.kept:
            tell(traceparent)
        elif not self.dropped:
            self.calls.append((traceparent, tell))

    def stage(self, name: str, kind: SpanKind = SpanKind.INTERNAL, about: About = nothing) -> "Stage":
        return Stage(self, name, kind, about)

    def past(
        self, name: str, began: float, ended: float, about: About = nothing, error: BaseException | None = None
    ) -> None:
        if error is None and not self.kept:  # as most are: what it needs, and no object of its own
            if not self.dropped and len(self.stages) < MOST_SPANS:
                self.stages.append((name, began, ended, about))
            return
        stage = Stage.past_one(self, name, began, ended, about)
        if error is not None:
            stage.fail(error)
        self.note(stage)

    def take(self) -> "list[Stage]":
        """Return the stages that wait, which then wait no more."""
        taken, self.stages = self.stages, []
        return [part if isinstance(part, Stage) else Stage.past_one(self, *part) for part in taken]

    def note(self, stage: "Stage") -> None:
        if self.kept:
            self.keeper.export(self, stage)
        elif not self.dropped and len(self.stages) < MOST_SPANS:
            self.stages.append(stage)

    def set_attribute(self, key: str, value: Any) -> None:
        self._set[key] = value

    def describe(self, about: About) -> None:
        self._described.append(about)

    def add_event(self, name: str, attributes: Attributes = NONE) -> None:
        if len(self.events) < MOST_EVENTS:
            self.events = (*self.events, (name, time.monotonic(), attributes))

    def first_token(self, at: float | None) -> None:
        self.first_at = at

    def fail(self, error: BaseException) -> None:
        self.failure = failure_of(error)
        if self.failure.is_fault:
            self.failed = True

    def end(self) -> None:
        if not self.ended:
            self.ended = time.monotonic()
            self.keeper.ended(self)

    def drop(self) -> None:
        """Let go of all that it holds, so that nothing is left to the garbage collector."""
        self.dropped = True
        self.stages.clear()
        self.calls.clear()

    def epoch(self) -> int:
        """Return what is to be added to nanoseconds of `time.monotonic` to get those since the epoch.

        The same for all spans of a request, so that a clock that is set meanwhile does not tear them apart.
        """
        if not self._epoch_ns:
            self._epoch_ns = time.time_ns() - time.monotonic_ns()
        return self._epoch_ns

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        self.end()


class Stage(Untraced):
    """A part of a request. Its attributes are asked for when it is exported."""

    __slots__ = ("about", "began", "ended", "failure", "kind", "name", "sketch", "span_id")

    def __init__(self, sketch: Sketch, name: str, kind: SpanKind, about: About) -> None:
        self.sketch = sketch
        self.name = name
        self.kind = kind
        self.about = about
        self.span_id = getrandbits(64) or 1
        self.failure: Failure | None = None
        self.began = self.ended = 0.0

    @classmethod
    def past_one(cls, sketch: Sketch, name: str, began: float, ended: float, about: About) -> Self:
        """Return one that is over."""
        stage = cls(sketch, name, SpanKind.INTERNAL, about)
        stage.began, stage.ended = began, ended
        return stage

    @property
    def trace_id(self) -> int:
        return self.sketch.trace_id

    @property
    def tells(self) -> bool:  # type: ignore[override]  # never set
        return self.sketch.tells

    def is_recording(self) -> bool:
        return not self.ended

    def headers(self) -> tuple[str, str]:
        return self.sketch._headers(self.span_id)

    def given_to(self, traceparent: str, tell: Callable[[str], None]) -> None:
        self.sketch.given_to(traceparent, tell)

    def describe(self, about: About) -> None:
        self.about = about

    def set_attribute(self, key: str, value: Any) -> None:
        before = self.about
        self.about = lambda: {**before(), key: value}

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.monotonic()
        if error is not None:
            self.fail(error)
        self.sketch.note(self)

    def fail(self, error: BaseException) -> None:
        self.failure = failure_of(error)
        if self.failure.is_fault:
            self.sketch.failed = True
