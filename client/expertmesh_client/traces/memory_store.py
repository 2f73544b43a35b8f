"""The newest traces, in memory."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans


class MemoryStore:
    """Keeps spans by trace. Bounded: the trace that was quiet for longest goes first. Safe to use from any thread.

    Args:
        max_traces: traces kept.
        max_spans: spans kept of one trace; later ones are dropped.
        max_total: spans kept of all traces together.
    """

    def __init__(self, max_traces: int = 1000, max_spans: int = 10_000, max_total: int = 50_000) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._max_total = max_total
        self._traces: OrderedDict[bytes, list[ResourceSpans]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._traces)

    @property
    def trace_ids(self) -> list[bytes]:
        """The traces kept, the one that was quiet for longest first."""
        with self._lock:
            return list(self._traces)

    def add(self, batches: Iterable[ResourceSpans]) -> int:
        """Keep an export's spans; returns how many were dropped."""
        dropped = 0
        with self._lock:
            for batch in batches:
                for trace_id, part in _by_trace(batch).items():
                    count = span_count((part,))
                    if self._sizes.get(trace_id, 0) + count > self._max_spans:
                        dropped += count
                        continue
                    self._traces.setdefault(trace_id, []).append(part)
                    self._traces.move_to_end(trace_id)
                    self._sizes[trace_id] = self._sizes.get(trace_id, 0) + count
                    self._total += count
            while len(self._traces) > self._max_traces or (self._total > self._max_total and len(self._traces) > 1):
                oldest, _ = self._traces.popitem(last=False)
                self._total -= self._sizes.pop(oldest)
        return dropped

    def trace(self, trace_id: bytes) -> list[ResourceSpans]:
        """Return what has arrived of a trace, which may be nothing."""
        with self._lock:
            return list(self._traces.get(trace_id, ()))


def span_count(batches: Iterable[ResourceSpans]) -> int:
    return sum(len(scope.spans) for batch in batches for scope in batch.scope_spans)


def _by_trace(batch: ResourceSpans) -> dict[bytes, ResourceSpans]:
    """Split one resource's spans by trace; resource and scopes stay with each part."""
    parts: dict[bytes, ResourceSpans] = {}
    for scope_spans in batch.scope_spans:
        places: dict[bytes, int] = {}  # trace -> where this scope stands in its part
        for span in scope_spans.spans:
            part = parts.get(span.trace_id)
            if part is None:
                part = parts[span.trace_id] = ResourceSpans(resource=batch.resource, schema_url=batch.schema_url)
            if span.trace_id not in places:
                places[span.trace_id] = len(part.scope_spans)
                part.scope_spans.add(scope=scope_spans.scope, schema_url=scope_spans.schema_url)
            part.scope_spans[places[span.trace_id]].spans.append(span)
    return parts
