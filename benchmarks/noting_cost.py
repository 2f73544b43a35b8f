"""What it costs to note a request for a trace, alone: no network, no router, no other work.

One request's worth of calls as the router makes them, for each way of watching, and "the least": what anyone who wants
the trace of a request afterwards does in Python, written down without a function call: ids, a clock read at each edge,
one tuple for each stage, the header for the expert, and two looks at the recent past.

The best of many turns counts: what a busy machine adds is left out. In a router the same calls cost about twice that,
since a request's other work has had the processor's caches meanwhile.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from random import getrandbits
from typing import Annotated, Any

import typer
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.report import show
from expertmesh.v1.inference_pb2 import SessionStart
from mesh_wire.answering import METHODS
from mesh_wire.head import head_of
from mesh_wire.sampling import Wanted
from mesh_wire.sketches import Sketch
from mesh_wire.stages import Stage
from mesh_wire.tail import Tail
from mesh_wire.telemetry import Telemetry, Tracing
from mesh_wire.untraced import CLIENT, SERVER

NAME, ABOUT = METHODS["Session/start"]
TURNS, REQUESTS = 15, 4000
ABOUT_NOTHING: dict[str, Any] = {}


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


def routed(telemetry: Telemetry) -> None:
    """Do what a router does for one request that goes well, as far as its trace is concerned."""
    with telemetry.begin(NAME, SERVER, about=ABOUT) as span:
        span.set_attribute("expertmesh.request_id", "x")
        span.past("route.admit", 1.0, 2.0)
        span.past("route.select", 2.0, 3.0, lambda: ABOUT_NOTHING)
        span.describe(lambda: ABOUT_NOTHING)
        with span.stage("expert call", CLIENT, lambda: ABOUT_NOTHING) as call:
            start = SessionStart(stream_id=1)
            start.traceparent, _ = call.started_at(NOWHERE, 1)
        span.describe(lambda: ABOUT_NOTHING)
        span.first_token(3.0)


_TIMES: deque[float] = deque(maxlen=500)
_FIRSTS: deque[float] = deque(maxlen=500)


def least(now: Callable[[], float] = time.monotonic) -> None:
    """Note one request with as little as can be."""
    began = now()
    trace_id, span_id = getrandbits(128), getrandbits(64)
    if trace_id & 0xFFFFFFFFFFFFFFFF < 1:
        return
    admit = ("route.admit", began, now())
    select = ("route.select", now(), now())
    call_began, call_id = now(), getrandbits(64)
    header = f"{call_id:016x}"
    SessionStart(stream_id=1, traceparent=f"00-{trace_id:032x}-{header}-02", tracestate=f"expertmesh={header}")
    stages = [admit, select, ("expert call", call_began, now(), call_id)]
    took = now() - began
    _TIMES.append(took)
    _FIRSTS.append(took)
    if took > 1e9 or took > 2e9:
        print(span_id, stages)


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
        "the least in Python": least,
    }
    off = us(watched["off"])
    rows = [{"traces": name, "us": (found := us(do)), "beyond_off_us": found - off} for name, do in watched.items()]
    show("what noting a request costs", rows, as_json=as_json, load=f"the best of {TURNS} turns")


if __name__ == "__main__":
    typer.run(command)
