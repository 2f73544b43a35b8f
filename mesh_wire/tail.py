"""Tail-keeping: of the traces that the sampler left out, those that failed and the slowest are kept, whole.

Whether a trace is worth keeping is known when its request has ended, and every process can tell then of what the
sampler left out (see `asked` and `sketches`). One of them decides: the first of the mesh that the request came through,
since all that goes wrong or takes long behind it can be seen from there. The others cannot decide for themselves: each
has its own idea of "slow", and an expert does not know that its answer came too late; the traces would be kept in
pieces.

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

Bounded: see `awaiting` for how many wait for word, and how long; `sketches.MOST_SPANS` are noted of each;
`sampling.PER_S` traces are kept. What is beyond is dropped, and the requests do not notice.
"""

import time
from collections.abc import Callable

from mesh_wire.awaiting import Awaited
from mesh_wire.sampling import Allowance, Paces, Wanted
from mesh_wire.sketches import Sketch
from mesh_wire.stages import Stage

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
        self.awaited = Awaited(clock)
        self._wanted = wanted
        self._clock = clock
        self._paces = Paces()
        self._allowance = Allowance()

    def ended(self, sketch: Sketch) -> None:
        if sketch.kept:
            self.export(sketch, sketch)
            if sketch.caller.will_tell:
                self.awaited.forget(sketch.caller.key, sketch)
        elif sketch.caller.will_tell:
            self.awaited.ended(sketch.caller.key, sketch)
        elif why := self._why(sketch):
            self.keep(sketch, why)
        else:
            sketch.drop()

    def _why(self, sketch: Sketch) -> str:
        """Say why a request is worth keeping; empty where it is not."""
        if sketch.verdict is not None and sketch.verdict.kept:  # who was called has decided so
            return "told" if self._allowed() else ""
        if not sketch.failed and not sketch.tells:
            return ""
        return self.why(sketch.name, sketch.began, sketch.ended, sketch.first_at, sketch.failed)

    def why(self, name: str, began: float, ended: float, first_at: float | None, failed: bool) -> str:
        """Say why a request is worth keeping, and it will be; empty where it is not."""
        if failed:
            return "error" if self._wanted.errors and self._allowed() else ""
        if not self._wanted.slowest:
            return ""
        first_s = None if first_at is None else first_at - began
        return "slow" if self._paces[name].exceeded(ended - began, first_s) and self._allowed() else ""

    def _allowed(self) -> bool:
        return self._allowance.take(self._clock())

    def keep(self, sketch: Sketch, why: str) -> None:
        """Keep a request that has ended."""
        sketch.set_attribute("expertmesh.kept", why)
        sketch.keep()
