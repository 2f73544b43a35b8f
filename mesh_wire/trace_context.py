"""W3C trace context: who called, by two headers. Read for each request, so in a fraction of the propagator's time."""

import re
from collections.abc import Hashable

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceState

VENDOR = "expertmesh"  # our key in `tracestate`
SAMPLED, RANDOM = 1, 2  # flags
FLAGS = tuple(f"{flags:02x}" for flags in range(256))  # a look is a third of the time that a traceparent would take
_HEADER = re.compile(r"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")


class Verdict:
    """Where it is written down whether a request's trace is kept, for those who answer it."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept = False


class Caller:
    """Whose request it is: the span that the caller's headers name."""

    __slots__ = (
        "flags",
        "key",
        "left_out",
        "remote",
        "span_id",
        "trace_id",
        "traceparent",
        "tracestate",
        "verdict",
        "will_tell",
    )

    def __init__(
        self,
        trace_id: int = 0,
        span_id: int = 0,
        flags: int = 0,
        traceparent: str = "",
        tracestate: str = "",
        *,
        remote: bool = True,
        will_tell: bool = False,
        verdict: Verdict | None = None,
        left_out: bool = False,
        key: Hashable = None,
    ) -> None:
        """Args:
        trace_id: 0: there is no such span.
        tracestate: what others said in it.
        remote: whether it is another process.
        will_tell: whether word may follow on what becomes of the trace; see `tail`.
        verdict: where somebody looks for what becomes of it here.
        left_out: whether the caller's sampler left it out without a name.
        key: by which word of it comes; None: its `traceparent`.
        """
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.remote = remote
        self.will_tell = will_tell
        self.verdict = verdict
        self.left_out = left_out
        self.key = traceparent if key is None else key

    def span_context(self) -> SpanContext:
        """Return it as OpenTelemetry has it."""
        return SpanContext(self.trace_id, self.span_id, self.remote, trace.TraceFlags(self.flags), self.trace_state())

    def trace_state(self) -> TraceState | None:
        """Return what others said in `tracestate`; None: nothing."""
        return TraceState.from_header([self.tracestate]) if self.tracestate else None


NOBODY = Caller()
# In place of a session's `traceparent`, where nobody needs a name: the caller's sampler left this out,
LEFT_OUT = "-"  # and no more will be heard of it,
AWAITED = "?"  # or word may follow, with a name.
LEFT_OUT_THERE = Caller(left_out=True)
WORD_FOLLOWS = AWAITED, ""  # the headers of a start


def caller_of(traceparent: str, tracestate: str = "", verdict: Verdict | None = None) -> Caller:
    """Return whom a caller's headers name; nobody where they are absent or malformed."""
    found = _HEADER.fullmatch(traceparent) if traceparent else None
    if found is None:
        if traceparent == LEFT_OUT and verdict is None:
            return LEFT_OUT_THERE
        return NOBODY if verdict is None else Caller(verdict=verdict)
    version, trace_hex, span_hex, flags, more = found.groups()
    trace_id, span_id = int(trace_hex, 16), int(span_hex, 16)
    if not trace_id or not span_id or version == "ff" or (version == "00" and more):
        return NOBODY if verdict is None else Caller(verdict=verdict)
    will_tell = False
    if tracestate:
        if will_tell := tracestate == mark_of(span_hex):  # as our own services write it, where no others are
            tracestate = ""
        else:
            state = TraceState.from_header([tracestate])
            will_tell = state.get(VENDOR) == span_hex
            tracestate = (state.delete(VENDOR) if VENDOR in state else state).to_header()
    return Caller(trace_id, span_id, int(flags, 16), traceparent, tracestate, will_tell=will_tell, verdict=verdict)


def caller_of_start(traceparent: str, tracestate: str, key: Hashable) -> Caller:
    """Return whom the start of a session's request names; `key` is how word of the nameless would come."""
    if traceparent == AWAITED:
        return Caller(left_out=True, will_tell=True, key=key)
    return caller_of(traceparent, tracestate)


def current_caller() -> Caller:
    """Return OpenTelemetry's current span: that of whoever uses this library, where they trace."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return NOBODY
    flags = int(context.trace_flags)
    header = traceparent_of(context.trace_id, context.span_id, flags)
    return Caller(context.trace_id, context.span_id, flags, header, context.trace_state.to_header(), remote=False)


def traceparent_of(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{FLAGS[flags]}"


def mark_of(span_hex: str) -> str:
    """Return what says in `tracestate` that a caller will have word.

    It names the caller's span, so that a mark that somebody else merely carried on is told from one of the caller
    itself.
    """
    return f"{VENDOR}={span_hex}"
