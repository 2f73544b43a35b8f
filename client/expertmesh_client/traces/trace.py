"""One trace, and what can be said of it without looking at hops: whose it was, how it ended, what is odd about it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from expertmesh_client.traces.otlp_json import spans_in
from expertmesh_client.traces.running import NOT_ENDED, PROGRESS, Running, not_ended, running
from expertmesh_client.traces.spans import Span
from expertmesh_client.traces.tree import Node, tree_of, unanswered

ANSWERS = "expertmesh.v1.InferenceService/"
OURS = "expertmesh.v1."
_PARTS = (OURS, "route.", "engine.", "expert call")


@dataclass
class Trace:
    """A trace as far as it has arrived.

    Args:
        trace_id: 32 hexadecimal digits.
        found: span id → the span, and its `resourceSpans` entry. One that was sent twice is there once.
    """

    trace_id: str
    found: dict[str, tuple[Span, dict[str, Any]]] = field(default_factory=dict)

    @property
    def spans(self) -> list[Span]:
        """Its spans in the order of their starts."""
        return sorted((span for span, _ in self.found.values()), key=lambda span: (span.start_ns, -span.end_ns))

    @property
    def otlp_json(self) -> list[dict[str, Any]]:
        """Its `resourceSpans`."""
        return [entry for _, entry in self.found.values()]

    @cached_property
    def roots(self) -> list[Node]:
        return tree_of([*not_ended(self.spans), *self.spans])

    @cached_property
    def request(self) -> Node | None:
        """The request that an answer was given to, as its caller saw it; None where the trace holds none.

        It need not be the root: a caller's own spans may stand around it. Of several, the first.
        """
        return next((node for root in self.roots for node in root if node.span.name.startswith(ANSWERS)), None)

    @property
    def of_the_mesh(self) -> bool:
        return any(span.name.startswith(OURS) or span.name == PROGRESS for span, _ in self.found.values())

    def running(self, now_ns: int) -> Running | None:
        """Return how far a request is that has not ended; None where there is none such.

        Args:
            now_ns: nanoseconds since the epoch.
        """
        return running([span for span, _ in self.found.values()], now_ns)

    @property
    def start_ns(self) -> int:
        return min((span.start_ns for span, _ in self.found.values()), default=0)


def lacks(trace: Trace) -> str:
    """Say what a trace's request still lacks; empty where its hops can be told.

    Its caller's span may be missing: a caller whose spans go elsewhere has only its own part out of sight.
    """
    if trace.request is None:
        return "no answer"
    if any(root.span.name == NOT_ENDED for root in trace.roots):
        return "a request of it has not ended"
    for root in trace.roots:
        if root.orphan and root.span is not trace.request.span and root.span.name.startswith(_PARTS):
            return f"the span around {root.span.name} of {root.span.tier} has not arrived"
    return next((unanswered(node) for node in trace.request if unanswered(node)), "")


def gathered(parts: Iterable[Any], into: dict[str, Trace] | None = None) -> dict[str, Trace]:
    """Return traces by their ids, from pieces of OTLP-JSON.

    Raises:
        ValueError: a piece is not OTLP-JSON; what came before it is in `into`.
    """
    traces = {} if into is None else into
    for part in parts:
        for trace_id, span, entry in spans_in(part):
            trace = traces.get(trace_id)
            if trace is None:
                trace = traces[trace_id] = Trace(trace_id)
            trace.found[span.span_id] = span, entry
    return traces


@dataclass(frozen=True, slots=True)
class About:
    """What a request's spans say of it; empty or None where they do not."""

    expert: str
    replica: str
    reason: str
    status: str  # a status code's name, such as OK
    error: str  # such as EXPERT_BUSY
    prompt_tokens: int | None
    completion_tokens: int | None
    first_token_s: float | None  # on its caller's clock, from its start


def about(request: Node) -> About:
    def said(key: str) -> str:
        return next((node.span.attributes[key] for node in request if key in node.span.attributes), "")

    def count(key: str) -> int | None:
        text = said(key)
        return int(text) if text.isdecimal() else None

    root = request.span
    status = root.attributes.get("rpc.response.status_code", "UNKNOWN" if root.failed else "OK")
    return About(
        expert=said("expertmesh.expert"),
        replica=said("expertmesh.replica"),
        reason=said("expertmesh.reason"),
        status=status,
        error=root.attributes.get("error.type", "" if status == "OK" else status),
        prompt_tokens=count("gen_ai.usage.input_tokens"),
        completion_tokens=count("gen_ai.usage.output_tokens"),
        first_token_s=root.event("gen_ai.first_token"),
    )
