"""What it costs to note a request for a trace, alone: no network, no router, no other work.

One request's worth of calls as the router makes them, for each way of watching. The best of many turns counts: what a
busy machine adds is left out. In a router the same calls cost two or three times that, since a request's other work has
had the processor's caches meanwhile.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Annotated, Any

import typer
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.report import show
from expertmesh.v1.inference_pb2 import SessionStart
from mesh_wire.answering import METHODS
from mesh_wire.asked import Asked
from mesh_wire.deadlines import Deadline
from mesh_wire.head import head_of
from mesh_wire.sampling import Wanted
from mesh_wire.sketches import Sketch
from mesh_wire.stages import Stage
from mesh_wire.tail import Tail
from mesh_wire.telemetry import Telemetry, Tracing
from mesh_wire.trace_context import AWAITED, NOBODY, Caller, caller_of_start
from mesh_wire.untraced import CLIENT, NONE, RETOLD, SERVER, Attributes, nothing

NAME, ABOUT = METHODS["Session/start"]
TURNS, REQUESTS = 15, 4000


class Unsent:
    """Keeps what is sampled: none of it."""

    def ended(self, sketch: Sketch) -> None:
        raise AssertionError("the ratio is 0")

    def export(self, sketch: Sketch, part: Sketch | Stage) -> None:
        """Take what the tail keeps: it is not what is measured."""


class Nowhere:
    """Takes word of what is kept."""

    def keep(self, traceparent: str, stream_id: int = 0) -> None:
        """Take it."""


NOWHERE = Nowhere()


def about_nothing(*_: Any) -> Attributes:
    return NONE


def routed(telemetry: Telemetry, caller: Caller = NOBODY) -> None:
    """Do what a router does for one request that goes well, as far as its trace is concerned."""
    began = time.monotonic()
    with telemetry.begin(NAME, SERVER, caller, ABOUT, retold=True) as span:
        asked = Asked(NEVER, "", span, time.monotonic())
        if span is RETOLD and caller.will_tell:
            telemetry.await_word(caller.key, asked)
        span.set_attribute("expertmesh.request_id", "x")
        asked.note(("route.admit", 1.0, 2.0, nothing, None))
        asked.note(("route.select", 2.0, 3.0, partial(about_nothing, span), None))
        about = partial(about_nothing, span)
        asked.about = partial(about_nothing, span, about)
        with span.stage("expert call", CLIENT, about) as call:
            start = SessionStart(stream_id=1)
            start.traceparent, _ = call.started_at(NOWHERE, 1)
        if span is RETOLD:
            asked.note(("expert call", 2.0, time.monotonic(), about, None, NOWHERE, 1))
        asked.about = partial(about_nothing, span, about)
        span.describe(asked.about)
        span.first_token(began)
    if span is RETOLD and telemetry.tail is not None:
        asked.end(telemetry.tail, caller, NAME, ABOUT, began, began)


def waiting(telemetry: Telemetry) -> None:
    """Do the same for one of which word may follow."""
    routed(telemetry, caller_of_start(AWAITED, "", next(KEYS)))


NEVER = Deadline()
KEYS = count()


def us(do: Callable[[], None]) -> float:
    """Return the µs of CPU that it takes, in the best of many turns."""
    best = float("inf")
    for _ in range(TURNS):
        began = time.thread_time()
        for _ in range(REQUESTS):
            do()
        best = min(best, (time.thread_time() - began) / REQUESTS)
    return 1e6 * best


def command(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Measure what noting a request costs."""
    head, unsent = head_of(ParentBased(TraceIdRatioBased(0))), Unsent()

    def traced(wanted: Wanted | None) -> Telemetry:
        tail = Tail(wanted, unsent.export) if wanted is not None else None
        return Telemetry(NoOpMeter(""), Tracing(head, unsent, tail))

    watched = {
        "off": partial(routed, Telemetry.off()),
        "left out, tail off": partial(routed, traced(None)),
        "left out, errors": partial(routed, traced(Wanted(errors=True))),
        "left out, errors and slowest": partial(routed, traced(Wanted(errors=True, slowest=True))),
        "the same, and somebody else decides": partial(waiting, traced(Wanted(errors=True, slowest=True))),
    }
    off = us(watched["off"])
    rows = [{"traces": name, "us": (found := us(do)), "beyond_off_us": found - off} for name, do in watched.items()]
    show("what noting a request costs", rows, as_json=as_json, load=f"the best of {TURNS} turns")


if __name__ == "__main__":
    typer.run(command)
