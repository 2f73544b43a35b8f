"""Tail-keeping: of the traces that the sampler left out, those that failed and the slowest are kept, whole.

Whether a trace is worth keeping is known when its request has ended, so every process notes what the sampler left out
(see `sketches`), and one of them decides: the first of the mesh that the request came through, since all that goes
wrong or takes long behind it can be seen from there. The others cannot decide for themselves: each has its own idea of
"slow", and an expert does not know that its answer came too late; the traces would be kept in pieces.

How the word gets from who decides to the others:

1. A caller that will decide, or be told, says so in `tracestate`, with its own span's id. The sampled flag stays unset,
   so no other service that the trace passes records anything.
2. Who is called with such a mark waits for the word; who is called without it, or with that of another span, decides.
3. What is kept is told to those that were called, by the `traceparent` that they were called with, in the session that
   carried the request or the next one there (`SessionRequest.kept_traces`). They tell those that they called.
4. A `Generate` call has no way down after its end, so its caller does not mark: its server decides, and says so in the
   trailing metadata; the caller keeps its own span for that, and for an error.

Bounded: `WAITING` requests wait for word, `WAITING_S` long; `sketches.MOST_SPANS` of each; `sampling.PER_S` traces are
kept. What is beyond is dropped, and the requests do not notice.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from mesh_wire.sampling import Allowance, Slowest, Wanted
from mesh_wire.sketches import Sketch, Stage

WAITING = 2000  # requests that have ended here and wait for word
WAITING_S = 30.0
KEPT_HEADER = "expertmesh-trace-kept"  # trailing metadata of a `Generate` call


class Tail:
    """The keeper of what the sampler leaves out: has it exported where it is to be kept."""

    def __init__(
        self,
        wanted: Wanted,
        export: Callable[[Sketch, Sketch | Stage], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        export: gets what is kept: a request, and its own span or that of a stage.
        clock: seconds.
        """
        self.export = export
        self._wanted = wanted
        self._clock = clock
        self._slowest = Slowest()
        self._allowance = Allowance()
        self._lock = threading.Lock()
        self._told_by: dict[str, list[Sketch]] = {}  # by their callers' `traceparent`: those that are told
        self._waiting: deque[tuple[float, Sketch]] = deque()  # with the time until which, the oldest first

    @property
    def held(self) -> int:
        """Requests that have ended, and of which something is still held."""
        return len(self._waiting)

    def begun(self, sketch: Sketch) -> None:
        """Have a request told, since its caller will. One that decides here is held by nobody but its own task."""
        with self._lock:
            self._told_by.setdefault(sketch.caller.traceparent, []).append(sketch)

    def told(self, traceparent: str) -> None:
        """Keep what was noted for a caller's span, because the caller says so. Word of others is passed over."""
        for sketch in tuple(self._told_by.get(traceparent, ())):
            self._keep(sketch)

    def ended(self, sketch: Sketch) -> None:
        if sketch.kept:
            self.export(sketch, sketch)
            if sketch.caller.will_tell:
                self._forget([sketch])
        elif sketch.caller.will_tell:
            self._wait(sketch)
        elif (why := self._why(sketch)) and self._allowance.take(self._clock()):
            sketch.set_attribute("expertmesh.kept", why)
            self._keep(sketch)
        else:
            sketch.drop()

    def _wait(self, sketch: Sketch) -> None:
        now = self._clock()
        over = []
        with self._lock:
            self._waiting.append((now + WAITING_S, sketch))
            while len(self._waiting) > WAITING or self._waiting[0][0] <= now:
                over.append(self._waiting.popleft()[1])
        if over:
            self._forget(over)

    def _why(self, sketch: Sketch) -> str:
        """Say why a request is worth keeping; empty where it is not."""
        if sketch.verdict is not None and sketch.verdict.kept:  # who was called has decided so
            return "told"
        if sketch.failed:
            return "error" if self._wanted.errors else ""
        if not self._wanted.slowest or not sketch.tells:
            return ""
        began, first_at = sketch.began, sketch.first_at
        first_s = None if first_at is None else first_at - began
        return "slow" if self._slowest.among(sketch.name, sketch.ended - began, first_s) else ""

    def _keep(self, sketch: Sketch) -> None:
        """Export what has ended, and tell those that were called. What ends later follows."""
        if sketch.dropped or sketch.kept:
            return
        sketch.kept = True
        if sketch.verdict is not None:
            sketch.verdict.kept = True
        for stage in sketch.take():
            self.export(sketch, stage)
        if sketch.ended:
            self.export(sketch, sketch)
        calls, sketch.calls = sketch.calls, []
        for traceparent, tell in calls:
            tell(traceparent)

    def _forget(self, sketches: list[Sketch]) -> None:
        """Let go of requests for which no word is waited any longer."""
        with self._lock:
            for sketch in sketches:
                header = sketch.caller.traceparent
                if same := self._told_by.get(header):
                    same[:] = [one for one in same if one is not sketch]
                    if not same:
                        del self._told_by[header]
        for sketch in sketches:
            if not sketch.kept:
                sketch.drop()
