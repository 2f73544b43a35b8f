"""The parts of a request, as they are noted until it is known whether they become spans."""

import time
from random import getrandbits
from types import TracebackType
from typing import Any, Protocol, Self

from opentelemetry.trace import SpanKind

from mesh_wire.span_failure import Failure, failure_of
from mesh_wire.untraced import CLIENT, INTERNAL, About, Past, PastCall, Untraced, Way


class Whole(Protocol):
    """What it is a part of; see `sketches`."""

    failed: bool

    @property
    def trace_id(self) -> int:
        """That of all parts."""

    def headers_of(self, span_id: int) -> tuple[str, str]:
        """Return the headers of one of its spans."""

    def given(self, part: "Stage", way: Way) -> tuple[str, str]:
        """Return the headers that a part gives to those that it calls, and remember the way there."""

    def started(self, part: "Stage", way: Way, stream_id: int) -> tuple[str, str]:
        """Likewise return what the start of a session's request says."""

    def over(self, stage: "Stage") -> None:
        """Take a part that has ended."""


class Noted(Untraced):
    """What becomes a span, if it is wanted."""

    __slots__ = ("_span_id", "ended")

    def __init__(self) -> None:
        self._span_id = 0  # nobody has asked for it
        self.ended = 0.0  # seconds of `time.monotonic`; 0: it is under way

    @property
    def span_id(self) -> int:
        """Never 0, which is none."""
        if not self._span_id:
            self._span_id = getrandbits(64) or 1
        return self._span_id

    def is_recording(self) -> bool:
        return not self.ended


class Stage(Noted):
    """A part of a request. Its attributes are asked for when it is exported."""

    __slots__ = ("about", "began", "failure", "kind", "name", "sketch")

    def __init__(self, sketch: Whole, name: str, kind: SpanKind, about: About) -> None:
        super().__init__()
        self.sketch = sketch
        self.name = name
        self.kind = kind
        self.about = about
        self.failure: Failure | None = None
        self.began = time.monotonic()

    @classmethod
    def of(cls, sketch: Whole, past: Past | PastCall) -> Self:
        """Return one that is over."""
        name, began, ended, about, failure, *call = past
        stage = cls(sketch, name, CLIENT if call else INTERNAL, about)
        stage.began, stage.ended, stage.failure = began, ended, failure
        return stage

    @property
    def trace_id(self) -> int:
        return self.sketch.trace_id

    def headers(self) -> tuple[str, str]:
        return self.sketch.headers_of(self.span_id)

    def given_to(self, way: Way) -> tuple[str, str]:
        return self.sketch.given(self, way)

    def started_at(self, way: Way, stream_id: int) -> tuple[str, str]:
        return self.sketch.started(self, way, stream_id)

    def describe(self, about: About) -> None:
        self.about = about

    def set_attribute(self, key: str, value: Any) -> None:
        before = self.about
        self.about = lambda: {**before(), key: value}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.monotonic()
        if error is not None:
            self.fail(error)
        self.sketch.over(self)

    def fail(self, error: BaseException) -> None:
        self.failure = failure_of(error)
        if self.failure.is_fault:
            self.sketch.failed = True
