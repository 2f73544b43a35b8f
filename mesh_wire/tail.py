"""Tail-keeping: of the traces that the sampler left out, those that failed and the slowest are kept, whole.

Whether a trace is worth keeping is known when its request has ended, so every process notes what the sampler left out
(see `sketches`), and one of them decides: the first of the mesh that the request came through, since all that goes
wrong or takes long behind it can be seen from there. The others cannot decide for themselves: each has its own idea of
"slow", and an expert does not know that its answer came too late; the traces would be kept in pieces.

How the word gets from who decides to the others:

1. A caller that will decide, or be told, says so in `tracestate`, with its own span's id. The sampled flag stays unset,
   so no other service that the trace passes records anything.
2. Who is called with such a mark waits for the word; who is called without it, or with that of another span, decides.
3. What is kept is told to those that were called, by the `traceparent` that they were called with, in the session that
   carried the request or the next one there (`SessionRequest.kept_traces`). They tell those that they called.
4. A `Generate` call has no way down after its end, so its caller does not mark: its server decides, and says so in the
   trailing metadata; the caller keeps its own span for that, and for an error.

Bounded: `WAITING` requests wait for word, `WAITING_S` long; `sketches.MOST_SPANS` of each; `sampling.PER_S` traces are
kept. What is beyond is dropped, and the requests do not notice.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind

from mesh_wire.sampling import Allowance, Slowest, Wanted
from mesh_wire.sketches import MOST_SPANS, Record, Sketch

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

WAITING = 2000  # requests that have ended here and wait for word
WAITING_S = 30.0
KEPT_HEADER = "expertmesh-trace-kept"  # trailing metadata of a `Generate` call
Key = tuple[int, int]  # trace id, span id


class Tail:
    """Notes what the sampler leaves out, and has it exported where it is to be kept."""

    def __init__(
        self,
        wanted: Wanted,
        new_id: Callable[[], int],
        export: Callable[[Sketch], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        new_id: makes span ids.
        export: gets what is kept.
        clock: seconds.
        """
        self._wanted = wanted
        self._new_id = new_id
        self._export = export
        self._clock = clock
        self._slowest = Slowest()
        self._allowance = Allowance()
        self._lock = threading.Lock()
        self._open: dict[Key, Record] = {}  # by their first span: requests under way
        self._told_by: dict[Key, list[Record]] = {}  # by their callers' span: those that are told
        self._waiting: deque[tuple[float, Record]] = deque()  # with the time until which, the oldest first

    @property
    def held(self) -> int:
        """Requests of which something is noted."""
        return len(self._open) + len(self._waiting)

    def begin(
        self,
        left_out: Span,
        caller: Span,
        context: Context | None,
        name: str,
        kind: SpanKind,
        attributes: "Mapping[str, AttributeValue] | None",
    ) -> Sketch:
        """Return what stands in for a span that the sampler left out.

        Args:
            caller: what `context` has for the span around it; the parent, where it is valid.
        """
        own, parent = left_out.get_span_context(), caller.get_span_context()
        if (inside := self._open.get((parent.trace_id, parent.span_id))) is not None:
            return inside.begin(own.span_id, parent.span_id, name, kind, attributes)
        record = Record(own, parent, context, self._new_id, self._ended)
        record.root = sketch = record.begin(
            own.span_id, parent.span_id if parent.is_valid else 0, name, kind, attributes
        )
        with self._lock:
            self._open[record.trace_id, sketch.span_id] = record
            if record.waits:
                self._told_by.setdefault((parent.trace_id, parent.span_id), []).append(record)
        return sketch

    def given_on(self, traceparent: str, within: Span, tell: Callable[[str], None]) -> None:
        """Remember that somebody was called: `tell` gives them word.

        Args:
            traceparent: what they were called with.
            within: the current span.
        """
        if type(within) is Sketch:
            record: Record | None = within.record
        elif (key := key_of(traceparent)) is not None:
            record = self._open.get(key)
        else:
            return
        if record is None or not record.tells:
            return
        if record.kept:
            tell(traceparent)
        else:
            record.calls.append((traceparent, tell))

    def told(self, traceparent: str) -> None:
        """Keep what was noted for a caller's span, because the caller says so. Word of others is passed over."""
        if (key := key_of(traceparent)) is None:
            return
        for record in tuple(self._told_by.get(key, ())):
            self._keep(record)

    def _ended(self, sketch: Sketch) -> None:
        record = sketch.record
        if record.kept and record.root is not sketch:
            self._export(sketch)
            return
        if not record.dropped and (len(record.sketches) < MOST_SPANS or record.root is sketch):
            record.sketches.append(sketch)
        if record.root is sketch:
            self._request_ended(record, sketch)

    def _request_ended(self, record: Record, root: Sketch) -> None:
        with self._lock:
            self._open.pop((record.trace_id, root.span_id), None)
        if record.kept:
            self._keep(record)
            self._forget([record])
            record.root = None
        elif record.waits:
            with self._lock:
                now = self._clock()
                self._waiting.append((now + WAITING_S, record))
                over = []
                while len(self._waiting) > WAITING or self._waiting[0][0] <= now:
                    over.append(self._waiting.popleft()[1])
            self._forget(over)
        elif (why := self._why(record, root)) and self._allowance.take(self._clock()):
            root.attributes["expertmesh.kept"] = why
            self._keep(record)
            record.root = None
        else:
            _drop(record)

    def _why(self, record: Record, root: Sketch) -> str:
        """Say why a request is worth keeping; empty where it is not."""
        if record.verdict is not None and record.verdict.kept:  # who was called has decided so
            return "told"
        if record.failed:
            return "error" if self._wanted.errors else ""
        if not self._wanted.slowest or not record.tells:
            return ""
        took_s = (root.ended_ns - root.start_ns) / 1e9
        return "slow" if self._slowest.among(root.name, took_s, root.first_token_s()) else ""

    def _keep(self, record: Record) -> None:
        """Export what has ended, and tell those that were called. What ends later follows."""
        if record.dropped:
            return
        record.kept = True
        if record.verdict is not None:
            record.verdict.kept = True
        sketches, record.sketches = record.sketches, []
        for sketch in sketches:
            self._export(sketch)
        calls, record.calls = record.calls, []
        for traceparent, tell in calls:
            tell(traceparent)

    def _forget(self, records: Iterable[Record]) -> None:
        """Let go of requests for which no word is waited any longer."""
        with self._lock:
            for record in records:
                parent = record.parent
                if parent is not None and (same := self._told_by.get((parent.trace_id, parent.span_id))):
                    same[:] = [one for one in same if one is not record]
                    if not same:
                        del self._told_by[parent.trace_id, parent.span_id]
                if not record.kept:
                    _drop(record)


def _drop(record: Record) -> None:
    record.dropped = True
    record.root = None  # it knows its record: without a ring between them, nothing waits for the garbage collector
    record.sketches.clear()
    record.calls.clear()


def key_of(traceparent: str) -> Key | None:
    """Return the ids in a `traceparent` that is not sampled; None: it is, or it is none."""
    parts = traceparent.split("-")
    try:
        version, trace_id, span_id, flags = parts
        return None if int(flags, 16) & 1 or version == "ff" else (int(trace_id, 16), int(span_id, 16))
    except ValueError:
        return None


def none_of(context: SpanContext) -> bool:
    """Whether a context is that of a trace which the sampler left out."""
    return context.is_valid and not context.trace_flags.sampled
