"""Requests that have not ended: of their own spans nothing can have arrived, but word of how far they are. Pure.

A service that answers a long request gives word of it now and then, as a span that ends at once (`PROGRESS`). Until
the request ends, the spans around it are missing, and nothing is wrong with that.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from expertmesh_client.traces.spans import Kind, Span

PROGRESS = "stream.progress"
NOT_ENDED = "(not ended)"  # the name of what stands in for a span that has not arrived
LATE_S = 30.0  # that word may be on its way, and that clocks may differ
_TOKENS, _NEXT_S = "gen_ai.usage.output_tokens", "expertmesh.stream.next_s"
_SECONDS, _PER_S = "expertmesh.stream.seconds", "expertmesh.stream.tokens_per_s"


@dataclass(frozen=True, slots=True)
class Running:
    """The last word of a request that has not ended."""

    tokens: int
    seconds: float  # since it began, at the last word
    tokens_per_s: float  # between the last two words
    heard_s: float  # ago
    due_s: float  # until the next word; negative: it is late
    expert: str
    replica: str

    @property
    def silent(self) -> bool:
        """Whether there should have been word: then the process is gone, or its spans are lost."""
        return self.due_s < -LATE_S

    @property
    def words(self) -> str:
        tokens = f"{self.tokens:,} tokens after {self.seconds:,.0f} s"
        if self.silent:
            return f"not ended, and silent: {tokens}, then nothing for {self.heard_s:,.0f} s"
        ago = f"{max(0.0, self.heard_s):,.0f} s ago"
        return f"still running: {tokens}, {self.tokens_per_s:,.1f} tokens/s; heard of {ago}"


def not_ended(spans: Collection[Span]) -> list[Span]:
    """Return what stands in for the spans of requests that have not ended, the one heard of first to begin with.

    Each is as long as what is known of it, and a root: who asked is not known before it ends.
    """
    there = {span.span_id for span in spans}
    found: dict[str, list[Span]] = {}
    for span in spans:
        if span.parent_id and span.parent_id not in there:
            found.setdefault(span.parent_id, []).append(span)
    stand_ins = [
        Span(
            span_id=parent_id,
            name=NOT_ENDED,
            kind=Kind.SERVER,
            service=within[0].service,
            start_ns=min(span.start_ns for span in within),
            end_ns=max(span.end_ns for span in within),
        )
        for parent_id, within in found.items()
        if any(span.name == PROGRESS for span in within)
    ]
    return sorted(stand_ins, key=lambda span: span.start_ns)


def running(spans: Iterable[Span], now_ns: int) -> Running | None:
    """Return the last word of what has not ended; None where there is none.

    Args:
        now_ns: nanoseconds since the epoch.
    """
    all_spans = list(spans)
    open_ids = {span.span_id for span in not_ended(all_spans)}
    words = [span for span in all_spans if span.name == PROGRESS and span.parent_id in open_ids]
    if not words:
        return None
    last = max(words, key=lambda span: span.end_ns)
    heard_s = (now_ns - last.end_ns) / 1e9

    def said(key: str) -> str:
        return next((span.attributes[key] for span in words if key in span.attributes), "")

    return Running(
        tokens=int(_number(last, _TOKENS)),
        seconds=_number(last, _SECONDS),
        tokens_per_s=_number(last, _PER_S),
        heard_s=heard_s,
        due_s=_number(last, _NEXT_S) - heard_s,
        expert=said("expertmesh.expert"),
        replica=said("expertmesh.replica"),
    )


def progress_note(span: Span) -> str:
    """Say how far a stream was at the end of one of its words; empty for other spans."""
    return f" ({int(_number(span, _TOKENS)):,} tokens)" if span.name == PROGRESS else ""


def _number(span: Span, key: str) -> float:
    try:
        found = float(span.attributes.get(key, "0"))
    except ValueError:
        return 0.0
    return found if abs(found) < 1e15 else 0.0  # also where it is none: nan
