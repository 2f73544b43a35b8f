"""The newest traces, in memory."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData


class TraceStore:
    """Keeps spans by trace. Bounded: the trace that was quiet for longest goes first. Safe to use from any thread.

    Args:
        max_traces: traces kept.
        max_spans: spans kept of one trace; later ones are dropped.
    """

    def __init__(self, max_traces: int = 1000, max_spans: int = 10_000) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._traces: OrderedDict[bytes, list[ResourceSpans]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
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
                    count = sum(len(scope.spans) for scope in part.scope_spans)
                    if self._sizes.get(trace_id, 0) + count > self._max_spans:
                        dropped += count
                        continue
                    self._traces.setdefault(trace_id, []).append(part)
                    self._traces.move_to_end(trace_id)
                    self._sizes[trace_id] = self._sizes.get(trace_id, 0) + count
            while len(self._traces) > self._max_traces:
                oldest, _ = self._traces.popitem(last=False)
                del self._sizes[oldest]
        return dropped

    def trace(self, trace_id: bytes) -> TracesData | None:
        """Return what has arrived of a trace; None if nothing has."""
        with self._lock:
            parts = self._traces.get(trace_id)
            return TracesData(resource_spans=parts) if parts else None


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
