"""Where the time of a request went, hop by hop.

Only durations are compared, never the clocks of two machines: a transit is a caller's span less the span of the call's
other end, which lies within it.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import median

from expertmesh_client.spans import Kind, Span
from expertmesh_client.trace_tree import Node, tree_of

STAGES = ("route.admit", "route.classify", "route.select", "engine.queue", "engine.prefill", "engine.decode")
HOPS = (
    "client ↔ router",
    "client ↔ expert",
    "admit",
    "classify",
    "select",
    "router, otherwise",
    "router ↔ expert",
    "queue",
    "prefill",
    "decode",
    "expert, otherwise",
)


def hops_of(spans: Collection[Span]) -> dict[str, float]:
    """Return seconds by hop of one trace; they add up to the root's duration. Hops that cannot be told are absent."""
    roots = tree_of(spans)
    hops: dict[str, float] = {}
    if not roots or roots[0].orphan or roots[0].span.kind is not Kind.CLIENT:
        return hops
    served = _other_end(roots[0])
    if served is None:
        return hops
    relayed = [child for child in served.children if child.span.kind is Kind.CLIENT]
    hops["client ↔ router" if relayed else "client ↔ expert"] = _less(roots[0], served)
    if relayed:
        _stages(served, hops)
        hops["router, otherwise"] = _less(served, *served.children)
        answered = _other_end(relayed[-1])
        if answered is None:
            return hops
        hops["router ↔ expert"] = _less(relayed[-1], answered)
        served = answered
    _stages(served, hops)
    hops["expert, otherwise"] = _less(served, *served.children)
    return hops


def medians(traces: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each hop over the traces that have it, in the order of a request's way."""
    return {hop: median(seconds) for hop in HOPS if (seconds := [trace[hop] for trace in traces if hop in trace])}


def _other_end(node: Node) -> Node | None:
    return next((child for child in node.children if child.span.kind is Kind.SERVER), None)


def _stages(node: Node, hops: dict[str, float]) -> None:
    for child in node.children:
        if child.span.name in STAGES:
            hop = child.span.name.partition(".")[2]
            hops[hop] = hops.get(hop, 0.0) + child.span.seconds


def _less(outer: Node, *inner: Node) -> float:
    return max(0.0, outer.span.seconds - sum(node.span.seconds for node in inner))
