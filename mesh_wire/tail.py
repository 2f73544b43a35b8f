"""Tail-keeping: of the traces that the sampler left out, those that failed and the slowest are kept, whole.

Whether a trace is worth keeping is known when its request has ended, so every process notes what the sampler left out
(see `sketches`), and one of them decides: the first of the mesh that the request came through, since all that goes
wrong or takes long behind it can be seen from there. The others cannot decide for themselves: each has its own idea of
"slow", and an expert does not know that its answer came too late; the traces would be kept in pieces.

How the word gets from who decides to the others:

1. A caller that will decide, or be told, says so. Most traces have no name yet: nobody outside began them, and of a
   hundred one is kept. The start of such a request has `?` for a `traceparent`, and its stream id is what is told.
   Where the trace has a name, the mark is in `tracestate`, with the caller's own span's id. The sampled flag stays
   unset, so no other service that the trace passes records anything.
2. Who is called with either waits for the word; who is called without, or with the mark of another span, decides.
3. What is kept is told to those that were called, in the session that carried the request or the next one there: by
   stream id, with the name that the trace has now (`SessionRequest.kept_streams`), or by the `traceparent` that they
   were called with (`kept_traces`). They tell those that they called.
4. A `Generate` call has no way down after its end, so its caller does not mark: its server decides, and says so in the
   trailing metadata; the caller keeps its own span for that, and for an error.

Bounded: `WAITING` requests wait for word, `WAITING_S` long; `sketches.MOST_SPANS` of each; `sampling.PER_S` traces are
kept. What is beyond is dropped, and the requests do not notice.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from mesh_wire.sampling import Allowance, Paces, Wanted
from mesh_wire.sketches import Sketch
from mesh_wire.stages import Stage
from mesh_wire.trace_context import caller_of

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
        self._paces = Paces()
        self._allowance = Allowance()
        self._lock = threading.Lock()
        self._told_by: dict[Hashable, list[Sketch]] = {}  # by their callers' keys: those that are told
        self._waiting: deque[tuple[float, Sketch]] = deque()  # with the time until which, the oldest first

    @property
    def held(self) -> int:
        """Requests that have ended, and of which something is still held."""
        return len(self._waiting)

    def begun(self, sketch: Sketch) -> None:
        """Have a request told, since its caller will. One that decides here is held by nobody but its own task."""
        with self._lock:
            self._told_by.setdefault(sketch.caller.key, []).append(sketch)

    def told(self, key: Hashable, traceparent: str) -> None:
        """Keep what was noted for a caller, because the caller says so. Word of others is passed over.

        Args:
            key: of the caller.
            traceparent: the caller's span, which what had no name belongs to.
        """
        for sketch in tuple(self._told_by.get(key, ())):
            if not sketch.caller.trace_id:
                caller = caller_of(traceparent)
                if not caller.trace_id:
                    return
                sketch.belongs_to(caller)
            self._keep(sketch)

    def ended(self, sketch: Sketch) -> None:
        if sketch.kept:
            self.export(sketch, sketch)
            if sketch.caller.will_tell:
                self._forget([sketch])
        elif sketch.caller.will_tell:
            self._wait(sketch)
        elif why := self._why(sketch):
            self.keep(sketch, why)
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
            return "told" if self._allowed() else ""
        if not sketch.failed and not sketch.tells:
            return ""
        began, first_at = sketch.began, sketch.first_at
        first_s = None if first_at is None else first_at - began
        return self.why(sketch.name, sketch.ended - began, first_s, sketch.failed)

    def why(self, name: str, took_s: float, first_s: float | None, failed: bool) -> str:
        """Say why a request is worth keeping, and it will be; empty where it is not."""
        if failed:
            return "error" if self._wanted.errors and self._allowed() else ""
        if self._wanted.slowest and self._paces[name].exceeded(took_s, first_s) and self._allowed():
            return "slow"
        return ""

    def _allowed(self) -> bool:
        return self._allowance.take(self._clock())

    def keep(self, sketch: Sketch, why: str) -> None:
        """Keep a request that has ended."""
        sketch.set_attribute("expertmesh.kept", why)
        self._keep(sketch)

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
        for part, way, stream_id in calls:
            way.keep(part.headers()[0], stream_id)

    def _forget(self, sketches: list[Sketch]) -> None:
        """Let go of requests for which no word is waited any longer."""
        with self._lock:
            for sketch in sketches:
                key = sketch.caller.key
                if same := self._told_by.get(key):
                    same[:] = [one for one in same if one is not sketch]
                    if not same:
                        del self._told_by[key]
        for sketch in sketches:
            if not sketch.kept:
                sketch.drop()
