"""A request as whoever answers it has it: what is known of it beside its content, and what its trace is to say.

Of a hundred requests that the sampler leaves out, one is kept for being slow, and fewer for an error. All that their
traces say is known when they have ended: what answering needs anyway, and the times of the parts, in a list. So nothing
else is noted as they go (their span is `RETOLD`), and only what is kept is made into a sketch.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mesh_wire.deadlines import Deadline
from mesh_wire.sketches import MOST_SPANS, Sketch
from mesh_wire.span_failure import LEFT, Failure, failure_of
from mesh_wire.tail import Tail
from mesh_wire.trace_context import RANDOM, Caller, caller_of
from mesh_wire.untraced import RETOLD, SERVER, About, Attributes, Event, Past, PastCall, Untraced, nothing


class Asked:
    """One request. All times are seconds of `time.monotonic`."""

    __slots__ = (
        "_ending",
        "_word",
        "about",
        "began",
        "caller",
        "deadline",
        "events",
        "failed",
        "failure",
        "note",
        "parts",
        "request_id",
        "span",
    )

    def __init__(self, deadline: Deadline, caller: str, span: Untraced, began: float) -> None:
        """Args:
        caller: who asks; empty: not known.
        began: when it arrived.
        """
        self.deadline = deadline
        self.caller = caller
        self.span = span
        self.began = began
        self.request_id = ""  # until it is named
        self.about: About = nothing  # the attributes of its span that answering adds
        self.events: Sequence[Event] = ()
        self._word: Caller | None = None  # whose trace it is a part of, since the caller says that it is kept
        self._ending: _Ending | None = None  # where word may still come
        self.failure: Failure | None = LEFT  # until it ends otherwise
        self.failed = False  # any part of it, though it be made good
        self.parts: list[Past | PastCall] = []
        self.note: Callable[[Past | PastCall], None] = self.parts.append if span is RETOLD else span.note

    def fails(self, error: BaseException) -> None:
        """Note how it ended."""
        self.failure = failure_of(error)
        self.failed = True

    def end(
        self, tail: Tail, caller: Caller, name: str, about: Attributes, began: float, first_at: float | None
    ) -> None:
        """Have it kept now that it has ended, if it is worth that, or the caller says so.

        Args:
            name: of its span.
            about: the first attributes of that.
            began: when that began.
            first_at: when its first token came; None: it did not, or long ago.
        """
        ended = time.monotonic()
        if caller.will_tell:
            self._ending = _Ending(tail, name, about, began, ended, first_at)
            if self._word is None:
                tail.awaited.ended(caller.key, self)
            else:
                self._retell(self._word, self._ending)
                tail.awaited.forget(caller.key, self)
            return
        if why := tail.why(name, began, ended, first_at, self.failed):
            self._retell(caller, _Ending(tail, name, about, began, ended, first_at), why)

    def told(self, traceparent: str) -> None:
        """Be kept, as a part of the caller's trace, whose name this is: it says so."""
        caller = caller_of(traceparent)
        if self._word is not None or not caller.trace_id:
            return
        self._word = caller
        if self._ending is not None:
            self._retell(caller, self._ending)

    def forgotten(self) -> None:
        """Nothing is to be let go of."""

    def _retell(self, caller: Caller, ending: "_Ending", why: str = "") -> None:
        tail, name, about, began, ended, first_at = ending
        named = {"expertmesh.caller": self.caller, "expertmesh.request_id": self.request_id, "expertmesh.kept": why}
        about = {**about, **{key: value for key, value in named.items() if value}}
        flags = caller.flags & RANDOM if caller.trace_id else RANDOM
        sketch = Sketch(tail, caller.trace_id, flags, caller, name, SERVER, about)
        sketch.describe(self.about)
        sketch.stages += self.parts[:MOST_SPANS]
        sketch.events = self.events
        sketch.first_at = first_at
        sketch.failure = self.failure
        sketch.began, sketch.ended = began, ended
        sketch.keep()


class _Ending(NamedTuple):
    """What is known of a request once it has ended; see `Asked.end`."""

    tail: Tail
    name: str
    about: Attributes
    began: float
    ended: float
    first_at: float | None
