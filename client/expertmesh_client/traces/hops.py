"""Where the time of a request went, hop by hop.

Only durations are compared, never the clocks of two machines: a transit is a call's span less the span of its far end,
which lies within it. What a process's spans leave open is its "otherwise": time that no span explains.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import median

from expertmesh_client.traces.running import PROGRESS
from expertmesh_client.traces.spans import Kind, Span
from expertmesh_client.traces.trace import ANSWERS
from expertmesh_client.traces.tree import Node, tree_of

HOPS = (
    "failed attempts",
    "client ↔ router",
    "admit",
    "classify",
    "select",
    "router, otherwise",
    "client ↔ expert",
    "router ↔ expert",
    "submit",
    "queue",
    "prefill",
    "decode",
    "deliver",
    "expert, otherwise",
    "client, otherwise",
)
TRANSIT, OTHERWISE = " ↔ ", ", otherwise"
DECISION = ("admit", "classify", "select")
WAITING = ("submit", "queue")  # for the engine to take a request up, for a place in its batch
COMPUTE = ("prefill", "decode")
DELIVERY = "deliver"  # from the engine's last token to the end that leaves its service
FAILED = "failed attempts"
_STAGES = ("route.", "engine.")


def hops_of(spans: Collection[Span]) -> dict[str, float]:
    """Return seconds by hop of a trace's first request; empty where there is none."""
    found = (node for root in tree_of(spans) for node in root if node.span.name.startswith(ANSWERS))
    request = next(found, None)
    return {} if request is None else hops(request)


def hops(request: Node) -> dict[str, float]:
    """Return seconds by hop of a request, in the order of its way. They add up to its duration."""
    found: dict[str, float] = {}
    _spread(request, request.span.seconds, found)
    return {hop: found[hop] for hop in sorted(found, key=place)}


def gaps(request: Node) -> dict[str, float]:
    """Return the seconds within each process that none of its spans covers, by the spans on either side.

    Both sides are one process's, so one clock's. The gaps say where an "otherwise" lies, and need not add up to it:
    a stage's times may stand a little outside the span around them.
    """
    found: dict[str, float] = {}
    for node in request:
        if node.far_ends or node.span.failed or (node.span.kind is Kind.INTERNAL and not node.children):
            continue
        at, before = node.span.start_ns, ""
        for child in node.own_children:
            if child.span.name == PROGRESS:
                continue
            start, end = child.span.start_ns, child.span.end_ns
            if start > at:
                label = f"between {before} and {child.span.name}" if before else f"before {child.span.name}"
                found[f"{node.span.tier}, {label}"] = found.get(f"{node.span.tier}, {label}", 0.0) + (start - at) / 1e9
            if end > at:
                at, before = end, child.span.name
        if node.span.end_ns > at:
            label = f"{node.span.tier}, after {before}" if before else f"{node.span.tier}, in {node.span.name}"
            found[label] = found.get(label, 0.0) + (node.span.end_ns - at) / 1e9
    return found


def medians(traces: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each hop over the traces that have it, in the order of a request's way."""
    named = sorted({hop for trace in traces for hop in trace}, key=place)
    return {hop: median(trace[hop] for trace in traces if hop in trace) for hop in named}


def place(hop: str) -> tuple[int, str]:
    """Where a hop stands in a request's way; those of other people's spans come last."""
    return (HOPS.index(hop), "") if hop in HOPS else (len(HOPS), hop)


def _spread(node: Node, seconds: float, found: dict[str, float]) -> None:
    """Share `seconds`, which `node` is given of its parent's time, out among the hops within it.

    Children never get more than there is: where clocks jumped, or they ran side by side, the later ones get the rest.
    """
    left = seconds
    for child in node.children:
        if child.span.name == PROGRESS:  # stands beside the stages, not between them
            continue
        got = min(child.span.seconds, left)
        left -= got
        if child.span.failed and not node.span.failed:
            found[FAILED] = found.get(FAILED, 0.0) + got
        else:
            _spread(child, got, found)
    hop = _own_hop(node)
    if left or not any(child.span.name != PROGRESS for child in node.children):
        found[hop] = found.get(hop, 0.0) + left


def _own_hop(node: Node) -> str:
    """Name the time that a span spent outside its children."""
    span = node.span
    if node.far_ends:
        return f"{span.tier}{TRANSIT}{node.far_ends[-1].span.tier}"
    if span.kind is Kind.CLIENT and not node.children:
        return FAILED if span.failed else f"{span.tier}{TRANSIT}?"
    if span.kind is Kind.INTERNAL and not node.children:
        return next((span.name.removeprefix(stage) for stage in _STAGES if span.name.startswith(stage)), span.name)
    return f"{span.tier}{OTHERWISE}"
