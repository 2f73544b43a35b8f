"""What is noted of a request in this process, until it is known whether it becomes spans.

Of a hundred traces the sampler may want one, and the tail another. So a request is noted as cheaply as can be: one
`Sketch` with the times of its stages, in seconds of `time.monotonic`; what costs more (ids of spans, headers,
attributes, spans of the SDK) is made of it where somebody needs it.
"""

import time
from collections.abc import Sequence
from random import getrandbits
from types import TracebackType
from typing import Any, Protocol

from opentelemetry.trace import SpanKind

from mesh_wire.span_failure import Failure, failure_of
from mesh_wire.stages import Noted, Stage
from mesh_wire.trace_context import RANDOM, WORD_FOLLOWS, Caller, Verdict, caller_of, mark_of, traceparent_of
from mesh_wire.untraced import INTERNAL, About, Attributes, Event, Past, PastCall, Way, nothing

MOST_SPANS = 64  # of one request in one process; what comes after them is not noted


class Keeper(Protocol):
    """Who knows what becomes of a sketch."""

    def ended(self, sketch: "Sketch") -> None:
        """Take a request that has ended."""

    def export(self, sketch: "Sketch", part: "Sketch | Stage") -> None:
        """Send a part of it, or itself."""


class Sketch(Noted):
    """One request, or one call, in this process."""

    # With slots: they are written and read in a fraction of the time of other attributes.
    __slots__ = (
        "_about",
        "_described",
        "_epoch_ns",
        "_set",
        "_trace_id",
        "began",
        "caller",
        "calls",
        "dropped",
        "events",
        "failed",
        "failure",
        "first_at",
        "flags",
        "keeper",
        "kept",
        "kind",
        "name",
        "stages",
        "tells",
        "verdict",
    )

    def __init__(
        self, keeper: Keeper, trace_id: int, flags: int, caller: Caller, name: str, kind: SpanKind, about: Attributes
    ) -> None:
        """Args:
        trace_id: 0: it gets one when somebody needs it.
        about: is neither changed nor copied.
        """
        self.keeper = keeper
        self._trace_id = trace_id
        self.flags = flags
        self.caller = caller
        self.name = name
        self.kind = kind
        self._about = about
        super().__init__()
        self._described: About | None = None
        self._set: dict[str, Any] | None = None
        self._epoch_ns = 0
        self.kept = False  # what ends is exported at once
        self.dropped = False  # what ends is forgotten
        self.failed = False  # any part of it
        self.failure: Failure | None = None
        self.tells = True  # unless it is sampled anyway, or the caller cannot
        self.verdict: Verdict | None = caller.verdict
        self.first_at: float | None = None  # when the first token came; None: it did not, or long ago
        self.events: Sequence[Event] = ()
        self.stages: list[Stage | Past | PastCall] = []  # that have ended, and wait
        self.calls: list[tuple[Sketch | Stage, Way, int]] = []  # what has called others, and how they get word
        self.began = time.monotonic()

    @property
    def trace_id(self) -> int:
        if not self._trace_id:
            self._trace_id = getrandbits(128) or 1
        return self._trace_id

    @property
    def attributes(self) -> dict[str, Any]:
        """What its span has, or would have by now."""
        found = dict(self._about)
        if self._described is not None:
            found.update(self._described())
        return found | self._set if self._set is not None else found

    def headers(self) -> tuple[str, str]:
        return self.headers_of(self.span_id)

    def given_to(self, way: Way) -> tuple[str, str]:
        return self.given(self, way)

    def started_at(self, way: Way, stream_id: int) -> tuple[str, str]:
        return self.started(self, way, stream_id)

    def given(self, part: "Sketch | Stage", way: Way) -> tuple[str, str]:
        """Return the headers that a part of it gives to those that it calls, and remember the way there."""
        headers = self.headers_of(part.span_id)
        if self.tells:
            if self.kept:
                way.keep(headers[0])
            elif not self.dropped:
                self.calls.append((part, way, 0))
        return headers

    def started(self, part: "Sketch | Stage", way: Way, stream_id: int) -> tuple[str, str]:
        """Likewise return what the start of a session's request says: nothing that costs, until there is a name."""
        if self.caller.trace_id or not self.tells or self.dropped:
            return self.given(part, way)
        self.calls.append((part, way, stream_id))
        return WORD_FOLLOWS

    def headers_of(self, span_id: int) -> tuple[str, str]:
        """Return the headers of one of its spans."""
        traceparent, others = traceparent_of(self.trace_id, span_id, self.flags), self.caller.tracestate
        if not self.tells:
            return traceparent, others
        mark = mark_of(f"{span_id:016x}")
        return traceparent, f"{mark},{others}" if others else mark

    def told(self, traceparent: str) -> None:
        """Be kept, because the caller says so; what has no name gets that which came with the word."""
        if not self.caller.trace_id:
            caller = caller_of(traceparent)
            if not caller.trace_id:
                return
            caller.key, caller.will_tell = self.caller.key, True
            self.caller = caller
            self._trace_id = caller.trace_id
            self.flags = caller.flags & RANDOM
        self.keep()

    def keep(self) -> None:
        """Export what has ended, and tell those that were called. What ends later follows."""
        if self.dropped or self.kept:
            return
        self.kept = True
        if self.verdict is not None:
            self.verdict.kept = True
        for stage in self.take():
            self.keeper.export(self, stage)
        if self.ended:
            self.keeper.export(self, self)
        calls, self.calls = self.calls, []
        for part, way, stream_id in calls:
            way.keep(part.headers()[0], stream_id)

    def forgotten(self) -> None:
        if not self.kept:
            self.drop()

    def stage(self, name: str, kind: SpanKind = INTERNAL, about: About = nothing) -> Stage:
        return Stage(self, name, kind, about)

    def take(self) -> list[Stage]:
        """Return the stages that wait, which then wait no more."""
        taken, self.stages = self.stages, []
        return [part if isinstance(part, Stage) else self._told(part) for part in taken]

    def _told(self, past: Past | PastCall) -> Stage:
        stage = Stage.of(self, past)
        if len(past) == 7 and (way := past[5]) is not None:
            self.calls.append((stage, way, past[6]))
        return stage

    def note(self, past: Past | PastCall) -> None:
        if (failure := past[4]) is not None and failure.is_fault:
            self.failed = True
        if self.kept:
            self.keeper.export(self, self._told(past))
        elif not self.dropped and len(self.stages) < MOST_SPANS:
            self.stages.append(past)

    def over(self, stage: Stage) -> None:
        """Take a part that has ended."""
        if self.kept:
            self.keeper.export(self, stage)
        elif not self.dropped and len(self.stages) < MOST_SPANS:
            self.stages.append(stage)

    def set_attribute(self, key: str, value: Any) -> None:
        if self._set is None:
            self._set = {key: value}
        else:
            self._set[key] = value

    def describe(self, about: About) -> None:
        self._described = about

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
