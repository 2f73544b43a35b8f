"""What does not fit in a trace: spans that are missing, and clocks that jumped or disagree. Pure functions."""

from dataclasses import dataclass
from enum import Enum

from expertmesh_client.traces.spans import Kind, Span
from expertmesh_client.traces.tree import Node, duration_text

# Spans may stand this far outside the span around them without a clock having jumped: other clocks may have been
# compared for them, and at another time. (Ours of one request in one process are compared once; see `sketches`.)
SLACK_NS = 5_000_000


class Oddity(Enum):
    PARENT_MISSING = "its parent has not arrived"
    BACKWARDS = "it ends before it starts: its clock was set back"
    LONGER = "it is longer than what it happened in"
    OUTSIDE = "it stands outside what it happened in: its clock jumped"
    OTHER_CLOCK = "its clock disagrees with its caller's"


@dataclass(frozen=True, slots=True)
class Odd:
    """One span that does not fit."""

    span: Span
    what: Oddity
    by_ns: int = 0

    @property
    def words(self) -> str:
        by = f", by {duration_text(self.by_ns / 1e9)}" if self.by_ns else ""
        return f"{self.span.short_name} of {self.span.tier}: {self.what.value}{by}"


def oddities(roots: list[Node]) -> dict[str, Odd]:
    """Return what is odd by span id, the first reason for each."""
    found: dict[str, Odd] = {}
    for root in roots:
        if root.orphan:
            found[root.span.span_id] = Odd(root.span, Oddity.PARENT_MISSING)
        elif root.span.end_ns < root.span.start_ns:
            found[root.span.span_id] = Odd(root.span, Oddity.BACKWARDS, root.span.start_ns - root.span.end_ns)
        for parent in root:
            for child in parent.children:
                if (odd := _odd(parent.span, child.span)) is not None:
                    found[child.span.span_id] = odd
    return found


def _odd(outer: Span, inner: Span) -> Odd | None:
    """Say how a span does not fit into the one around it; None where it does.

    Cases, in order:
      1. It ends before it starts.
      2. It took longer than the other, beyond the slack: durations disagree, whatever the clocks.
      3. It is another process's, and outside: only the two clocks disagree, which harms nothing.
      4. It is the same process's, and outside: that clock jumped.
    """
    if inner.end_ns < inner.start_ns:
        return Odd(inner, Oddity.BACKWARDS, inner.start_ns - inner.end_ns)
    longer = (inner.end_ns - inner.start_ns) - max(0, outer.end_ns - outer.start_ns)
    if longer > SLACK_NS:
        return Odd(inner, Oddity.LONGER, longer)
    beyond = max(outer.start_ns - inner.start_ns, inner.end_ns - max(outer.start_ns, outer.end_ns))
    if beyond <= SLACK_NS:
        return None
    return Odd(inner, Oddity.OTHER_CLOCK if other_process(outer, inner) else Oddity.OUTSIDE, beyond)


def other_process(outer: Span, inner: Span) -> bool:
    """Whether a span and the one within it ran in different processes: the inner one is then a call's far end."""
    return inner.kind is Kind.SERVER or inner.service != outer.service
