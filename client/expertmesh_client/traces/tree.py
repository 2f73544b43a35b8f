"""A trace as a tree, unmoved by spans that are missing. Pure functions."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from expertmesh_client.traces.spans import Kind, Span

MAX_DEPTH = 100  # spans below stand beside each other: no trace of ours is so deep, and what walks a tree recurses


@dataclass(frozen=True, slots=True)
class Node:
    """A span with what happened within it, in the order of their starts."""

    span: Span
    children: list["Node"] = field(default_factory=list)
    orphan: bool = False  # its parent has not arrived

    def __iter__(self) -> Iterator["Node"]:
        """Itself and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child

    @property
    def own_children(self) -> list["Node"]:
        """What its own process did within it; the others are the far ends of calls."""
        return [child for child in self.children if child.span.kind is not Kind.SERVER]

    @property
    def far_ends(self) -> list["Node"]:
        """What other processes did for it, where it is a call."""
        return [child for child in self.children if child.span.kind is Kind.SERVER]


def tree_of(spans: Collection[Span]) -> list[Node]:
    """Return the roots of a trace, the real one first; then the spans whose parents are missing, or form a ring."""
    by_id = {span.span_id: span for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(by_id.values(), key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in by_id else "", []).append(span)
    placed: set[str] = set()

    def grown(top: Span, *, orphan: bool) -> Node:
        placed.add(top.span_id)
        root = Node(top, orphan=orphan)
        growing = [(root, root.span.span_id, 1)]
        while growing:
            host, parent_id, depth = growing.pop()
            for span in children.get(parent_id, ()):
                if span.span_id in placed:
                    continue
                placed.add(span.span_id)
                node = Node(span)
                host.children.append(node)
                growing.append((node if depth + 1 < MAX_DEPTH else host, span.span_id, depth + 1))
        return root

    tops = sorted(children.get("", ()), key=lambda span: (bool(span.parent_id), span.start_ns))
    roots = [grown(span, orphan=bool(span.parent_id)) for span in tops]
    for span in by_id.values():
        if span.span_id not in placed:  # a ring, entered where it was found first
            roots += [grown(span, orphan=True)]
    return roots


def whats_missing(spans: Collection[Span]) -> str:
    """Say what a trace still lacks; empty when it is complete.

    Complete means: there is a root, every parent is there, and every call that went well has its other end.
    """
    if not spans:
        return "no span has arrived"
    roots = tree_of(spans)
    if roots[0].orphan:
        return "the client's span has not arrived"
    if orphans := [root.span for root in roots if root.orphan]:
        return f"the span around {orphans[0].name} of {orphans[0].tier} has not arrived"
    return next((unanswered(node) for node in roots[0] if unanswered(node)), "")


def unanswered(node: Node) -> str:
    """Say that a call's other end is missing; empty where it is there, or need not be."""
    span = node.span
    if span.kind is not Kind.CLIENT or not _went_well(span):
        return ""
    if any(child.span.kind in (Kind.SERVER, Kind.CLIENT) for child in node.children):
        return ""
    return f"the other end of {span.name} of {span.tier} has not arrived"


def data_of(node: Node) -> dict[str, Any]:
    """Return the tree as plain data, for JSON."""
    return {
        "name": node.span.name,
        "service": node.span.service,
        "seconds": node.span.seconds,
        "failed": node.span.failed,
        "children": [data_of(child) for child in node.children],
    }


def duration_text(seconds: float) -> str:
    """Return a duration to three figures or so, in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def _went_well(span: Span) -> bool:
    return not span.failed and span.attributes.get("rpc.response.status_code", "OK") == "OK"
