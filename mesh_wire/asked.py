"""A request as whoever answers it has it: what is known of it beside its content, and what its trace is to say.

Of a hundred requests that the sampler leaves out, one is kept for being slow, and fewer for an error. All that their
traces say is known when they have ended: what answering needs anyway, and the times of the parts, in a list. So nothing
else is noted as they go (their span is `RETOLD`), and only what is kept is made into a sketch.
"""

import time
from collections.abc import Callable, Sequence

from mesh_wire.deadlines import Deadline
from mesh_wire.sketches import Sketch
from mesh_wire.span_failure import LEFT, Failure, failure_of
from mesh_wire.tail import Tail
from mesh_wire.trace_context import RANDOM, Caller
from mesh_wire.untraced import RETOLD, SERVER, About, Attributes, Event, Past, PastCall, Untraced, nothing


class Asked:
    """One request. All times are seconds of `time.monotonic`."""

    __slots__ = (
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
        self.failure: Failure | None = LEFT  # until it ends otherwise
        self.failed = False  # any part of it, though it be made good
        self.parts: list[Past | PastCall] = []
        self.note: Callable[[Past | PastCall], None] = self.parts.append if span is RETOLD else span.note

    def fails(self, error: BaseException) -> None:
        """Note how it ended."""
        self.failure = failure_of(error)
        self.failed = True

    def retell(
        self, tail: Tail, caller: Caller, name: str, about: Attributes, began: float, first_at: float | None
    ) -> None:
        """Have it kept now that it has ended, though nobody noted it, if it is worth that.

        Args:
            about: the first attributes of its span.
            began: when that began.
            first_at: when its first token came; None: it did not, or long ago.
        """
        ended = time.monotonic()
        first_s = None if first_at is None else first_at - began
        if not (why := tail.why(name, ended - began, first_s, self.failed)):
            return
        named = {"expertmesh.caller": self.caller, "expertmesh.request_id": self.request_id}
        about = {**about, **{key: value for key, value in named.items() if value}}
        sketch = Sketch(tail, 0, RANDOM, caller, name, SERVER, about)
        sketch.describe(self.about)
        sketch.stages += self.parts
        sketch.events = self.events
        sketch.first_at = first_at
        sketch.failure = self.failure
        sketch.began, sketch.ended = began, ended
        tail.keep(sketch, why)
