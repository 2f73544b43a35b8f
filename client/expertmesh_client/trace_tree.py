"""A trace as a tree, and the tree as lines of text. Pure functions, unmoved by spans that are missing."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from expertmesh_client.spans import Kind, Span

_SERVICE_PREFIX = "expertmesh-"


@dataclass(frozen=True, slots=True)
class Node:
    """A span with what happened within it, in the order of their starts."""

    span: Span
    children: list["Node"] = field(default_factory=list)
    orphan: bool = False  # its parent has not arrived


def tree_of(spans: Collection[Span]) -> list[Node]:
    """Return the roots of a trace, the real one first; then the spans whose parents are missing, or form a ring."""
    by_id = {span.span_id: span for span in spans}
    children: dict[str, list[Span]] = {}
    for span in by_id.values():
        children.setdefault(span.parent_id if span.parent_id in by_id else "", []).append(span)
    placed: set[str] = set()

    def node(span: Span, orphan: bool = False) -> Node:
        placed.add(span.span_id)
        inner = sorted(children.get(span.span_id, ()), key=lambda child: child.start_ns)
        return Node(span, [node(child) for child in inner if child.span_id not in placed], orphan)

    tops = sorted(children.get("", ()), key=lambda span: (bool(span.parent_id), span.start_ns))
    roots = [node(span, orphan=bool(span.parent_id)) for span in tops]
    roots += [node(span, orphan=True) for span in by_id.values() if span.span_id not in placed]
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
        return f"the span around {orphans[0].name} of {service_of(orphans[0])} has not arrived"
    called = {span.parent_id for span in spans if span.kind is Kind.SERVER}
    for span in spans:
        if span.kind is Kind.CLIENT and not span.failed and span.span_id not in called:
            return f"the other end of {span.name} of {service_of(span)} has not arrived"
    return ""


def lines_of(roots: Sequence[Node], width: int = 80) -> list[str]:
    """Return the tree, a line a span: name, service, duration, share of the whole. Names are cut to fit `width`."""
    rows = list(_rows(roots))
    if not rows:
        return []
    whole_s = roots[0].span.seconds
    ends = [
        (service_of(span), duration_text(span.seconds), f"{span.seconds / whole_s:4.0%}" if whole_s else "")
        for _, span, _ in rows
    ]
    service, took, share = (max(len(end[at]) for end in ends) for at in range(3))
    room = max(20, width - service - took - share - 6)
    names = [_cut(f"{guide}{span.name}", room - len(note)) + note for guide, span, note in rows]
    longest = max(map(len, names))
    return [
        f"{name:<{longest}}  {end[0]:<{service}}  {end[1]:>{took}}  {end[2]:>{share}}".rstrip()
        for name, end in zip(names, ends, strict=True)
    ]


def data_of(node: Node) -> dict[str, Any]:
    """Return the tree as plain data, for JSON."""
    return {
        "name": node.span.name,
        "service": node.span.service,
        "seconds": node.span.seconds,
        "failed": node.span.failed,
        "children": [data_of(child) for child in node.children],
    }


def service_of(span: Span) -> str:
    return span.service.removeprefix(_SERVICE_PREFIX) or "?"


def duration_text(seconds: float) -> str:
    """Return a duration to three figures or so, in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def _rows(roots: Iterable[Node]) -> Iterator[tuple[str, Span, str]]:
    for root in roots:
        yield "", root.span, " (parent missing)" if root.orphan else _failure(root.span)
        yield from _inner_rows(root, "")


def _inner_rows(node: Node, indent: str) -> Iterator[tuple[str, Span, str]]:
    for child in node.children:
        last = child is node.children[-1]
        yield indent + ("└─ " if last else "├─ "), child.span, _failure(child.span)
        yield from _inner_rows(child, indent + ("   " if last else "│  "))


def _failure(span: Span) -> str:
    return f" ({span.attributes.get('error.type', 'failed')})" if span.failed else ""


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
