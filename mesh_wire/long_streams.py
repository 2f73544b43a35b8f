"""Streams of minutes, visible while they run: marks on a request's span, and word of how far it is.

A span leaves its process when it ends, and its events with it: of a stream that runs, a trace would show nothing. So
besides the events there is a span of its own for the time since the last one, which ends at once: `stream.progress`,
a child of the request's span, with the tokens so far and the seconds until the next is due. Both become rarer as the
stream grows, so that a trace stays small: 11 events for 3,600 tokens, 16 spans for an hour.

One timer looks at all traced requests of a server once a second, at counts that are kept anyway. So a token costs
nothing, and an event stands at the second in which its tokens were reached, with their exact number. While no request
is recorded there is no timer.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context

from mesh_wire.outlets import Tally

if TYPE_CHECKING:
    from mesh_wire.telemetry import Telemetry

log = logging.getLogger(__name__)

STRIDE = 256  # tokens
STRIDES_ALIKE = 8  # events after which the stride doubles
LOOK_EVERY_S = 1.0
FIRST_PROGRESS_S, LONGEST_PAUSE_S = 5.0, 300.0
FIRST_TOKEN, TOKENS, PROGRESS = "gen_ai.first_token", "expertmesh.tokens", "stream.progress"
SO_FAR, NEXT_S = "gen_ai.usage.output_tokens", "expertmesh.stream.next_s"
_SAID = ("expertmesh.request_id", "expertmesh.expert", "expertmesh.replica", "gen_ai.request.model")


def stride_of(env: Mapping[str, str] = os.environ) -> int:
    """Read `EXPERTMESH_TRACE_STRIDE`, tokens between two events at first; 0 is for none."""
    said = env.get("EXPERTMESH_TRACE_STRIDE", "").strip()
    if said and not said.isdecimal():
        log.warning("EXPERTMESH_TRACE_STRIDE is %r: it is a number of tokens, or 0", said)
        return STRIDE
    return int(said) if said else STRIDE


class Marks:
    """Says when an event is due: every so many tokens, the stride doubling after every eighth."""

    __slots__ = ("_due", "_marked", "_stride")

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._due = stride
        self._marked = 0

    def reached(self, tokens: int) -> bool:
        """Whether so many tokens make an event due. Several that are due at once are one."""
        if not self._stride or tokens < self._due:
            return False
        self._marked += 1
        if self._marked % STRIDES_ALIKE == 0:
            self._stride *= 2
        self._due += (1 + (tokens - self._due) // self._stride) * self._stride
        return True


class Watched:
    """One request that is under way, and recorded."""

    __slots__ = (
        "_began",
        "_first",
        "_marks",
        "_next_at",
        "_pause_s",
        "_span",
        "_tally",
        "_then",
        "_tokens",
    )

    def __init__(self, span: Span, tally: Tally, stride: int, now: float, *, first: bool) -> None:
        """Args:
        first: whether the first token is worth a mark.
        now: seconds of `time.monotonic`.
        """
        self._span = span
        self._tally = tally
        self._marks = Marks(stride)
        self._first = first
        self._began = self._then = now
        self._tokens = 0  # at the last word
        self._pause_s = FIRST_PROGRESS_S
        self._next_at = now + FIRST_PROGRESS_S

    def look(self, now: float, telemetry: "Telemetry") -> None:
        """Put what has come due on the trace."""
        tally = self._tally
        if self._first and tally.first_at is not None:
            self._first = False
            ago_ns = int((time.monotonic() - tally.first_at) * 1e9)
            self._span.add_event(FIRST_TOKEN, timestamp=time.time_ns() - ago_ns)
        if self._marks.reached(tally.tokens):
            self._span.add_event(TOKENS, {SO_FAR: tally.tokens})
        if now >= self._next_at and self._span.get_span_context().trace_flags.sampled:
            self._tell(now, telemetry)

    def _tell(self, now: float, telemetry: "Telemetry") -> None:
        tokens, since_s = self._tally.tokens, now - self._then
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._next_at = now + self._pause_s
        said = getattr(self._span, "attributes", None) or {}
        end_ns = time.time_ns()
        telemetry.start_span(
            PROGRESS,
            parent=set_span_in_context(self._span, Context()),
            attributes={
                **{key: said[key] for key in _SAID if key in said},
                SO_FAR: tokens,
                "expertmesh.stream.seconds": now - self._began,
                "expertmesh.stream.tokens_per_s": (tokens - self._tokens) / max(since_s, 1e-9),
                NEXT_S: self._pause_s,
            },
            start_ns=end_ns - int(since_s * 1e9),
        ).end(end_ns)
        self._then, self._tokens = now, tokens


class LongStreams:
    """Looks at the requests of a server that are recorded, for as long as there are any."""

    def __init__(self, telemetry: "Telemetry") -> None:
        self._telemetry = telemetry
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, span: Span, tally: Tally, *, first: bool = True) -> Watched | None:
        """Look at a request until `end`; None where it is not recorded. See `Watched`."""
        if not span.is_recording():
            return None
        watched = Watched(span, tally, self._telemetry.token_event_stride, time.monotonic(), first=first)
        self._watched.add(watched)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        return watched

    def end(self, watched: Watched | None) -> None:
        """Look for the last time, while the span is still open."""
        if watched is None:
            return
        self._watched.discard(watched)
        watched.look(-1.0, self._telemetry)  # no word any more: the span itself follows
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        now = time.monotonic()
        for watched in tuple(self._watched):
            try:
                watched.look(now, self._telemetry)
            except Exception:  # the others are looked at all the same
                log.exception("a stream could not be looked at")
                self._watched.discard(watched)
