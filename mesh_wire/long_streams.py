"""Streams of minutes, visible while they run: marks on a request's span, and word of how far it is.

A span leaves its process when it ends, and its events with it: of a stream that runs, a trace would show nothing. So
besides the events there is a span of its own for the time since the last one, which ends at once: `stream.progress`,
a child of the request's span, with the tokens so far and the seconds until the next is due. Both become rarer as the
stream grows, so that a trace stays small: 11 events for 3,600 tokens, 16 spans for an hour.

One timer looks at all traced requests of a server once a second, at counts that are kept anyway. So a token costs
nothing, and an event stands at the second in which its tokens were reached, with their exact number. While no request
is recorded there is no timer. What is over before the first look, as most is, costs a place in a dictionary.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping

from mesh_wire.asked import Asked
from mesh_wire.outlets import Tally
from mesh_wire.sketches import Sketch
from mesh_wire.untraced import Event

log = logging.getLogger(__name__)

STRIDE = 256  # tokens
MOST_EVENTS = 128  # of one span, as the SDK has it by default
STRIDES_ALIKE = 8  # events after which the stride doubles
LOOK_EVERY_S = 1.0
FIRST_PROGRESS_S, LONGEST_PAUSE_S = 5.0, 300.0
TOKENS, PROGRESS = "expertmesh.tokens", "stream.progress"
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

    __slots__ = ("_asked", "_marks", "_next_at", "_pause_s", "_tally", "_then", "_tokens", "events")

    def __init__(self, asked: Asked, tally: Tally, stride: int) -> None:
        self.events: list[Event] = []
        self._asked = asked
        self._tally = tally
        self._marks = Marks(stride)
        self._then = asked.began
        self._tokens = 0  # at the last word
        self._pause_s = FIRST_PROGRESS_S
        self._next_at = asked.began + FIRST_PROGRESS_S

    def look(self, now: float) -> None:
        """Put what has come due on the trace; `now` is in seconds of `time.monotonic`."""
        self.mark()
        span = self._asked.span
        if now >= self._next_at and isinstance(span, Sketch) and span.kept:
            self._tell(span, now)

    def mark(self) -> None:
        """Note an event, if one is due."""
        tokens = self._tally.tokens
        if self._marks.reached(tokens) and len(self.events) < MOST_EVENTS:
            self.events.append((TOKENS, time.monotonic(), {SO_FAR: tokens}))

    def _tell(self, span: Sketch, now: float) -> None:
        tokens, since_s = self._tally.tokens, now - self._then
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._next_at = now + self._pause_s
        said = {**span.attributes, **self._asked.about()}
        word = {
            **{key: said[key] for key in _SAID if key in said},
            SO_FAR: tokens,
            "expertmesh.stream.seconds": now - self._asked.began,
            "expertmesh.stream.tokens_per_s": (tokens - self._tokens) / max(since_s, 1e-9),
            NEXT_S: self._pause_s,
        }
        span.note((PROGRESS, self._then, now, lambda: word, None))
        self._then, self._tokens = now, tokens


class LongStreams:
    """Looks at the requests of a server that are recorded, for as long as there are any."""

    def __init__(self, stride: int, under_way: Callable[[], Iterable[tuple[Asked, Tally]]]) -> None:
        """Args:
        stride: tokens between two events at first; 0: none.
        under_way: returns the requests that are.
        """
        self._stride = stride
        self._under_way = under_way
        self._watched: dict[Tally, Watched] = {}  # those that have been looked at
        self._timer: asyncio.TimerHandle | None = None

    @property
    def asleep(self) -> bool:
        """Whether nobody looks at what is under way."""
        return self._timer is None

    def wake(self) -> None:
        """Look at what is under way, from now on until there is nothing."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def end(self, asked: Asked, tally: Tally) -> None:
        """Look for the last time, while the span is still open. No word is given any more: the span itself follows."""
        watched = self._watched.pop(tally, None)
        if watched is None:
            if not 0 < self._stride <= tally.tokens or not asked.span.is_recording():
                return
            watched = Watched(asked, tally, self._stride)
        watched.mark()
        asked.events = watched.events
        if isinstance(asked.span, Sketch):
            asked.span.events = watched.events

    def _look(self) -> None:
        self._timer = None
        recorded = [(asked, tally) for asked, tally in self._under_way() if asked.span.is_recording()]
        if not recorded:
            return
        self.wake()
        now = time.monotonic()
        for asked, tally in recorded:
            try:
                if (watched := self._watched.get(tally)) is None:
                    watched = self._watched[tally] = Watched(asked, tally, self._stride)
                watched.look(now)
            except Exception:  # the others are looked at all the same
                log.exception("a stream could not be looked at")
