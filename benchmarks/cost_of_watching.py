"""What tracing costs a router: off, one trace in a hundred with and without tail-keeping, and every trace.

Routers of one build, some of each kind, stand in front of the same engine, on the same core, asked in turn by the same
client, by `Session` and by `Generate`: one-token answers, for what a request costs; answers of 64 tokens, as users ask
for; and endless streams at a steady rate, for what a token costs. Spans go over OTLP to a process that takes and drops
them; there are no metrics.

A router that traces is compared with the one that does not within each round, and the median of these shares is shown,
with the middle half of them for noise.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.data_plane.host import Child, cores, free_port, python
from benchmarks.data_plane.loads import FULL, QUICK, Load, Timing, parse
from benchmarks.data_plane.measure import Bench, Cell
from benchmarks.data_plane.readers import over_session, plain
from benchmarks.data_plane.rounds import open_backend, say
from benchmarks.data_plane.ways import Middle, Way, router_config
from benchmarks.report import percentile, show
from mesh_wire.process import run

ANSWER_TOKENS = 64
LOADS = (parse("requests"), Load("answers", 32, rate=400), parse("32x100"))
WAYS = (Way("session", "router", over_session), Way("generate", "router", plain))
OFF, TARGET = "off", 0.03
_RATIO = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
WATCHED: Mapping[str, Mapping[str, str] | None] = {
    OFF: None,
    "1 %, no tail": {**_RATIO, "EXPERTMESH_TRACE_TAIL": "off"},
    "1 % and the tail": _RATIO,
    "100 %": {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
}
ENGINES = CONNECTIONS = 1
PROCESSES_EACH = 3  # that take turns: where its memory happens to lie makes a process dearer or not, by a few percent
Key = tuple[str, str, str]  # load, way, how it is watched


async def measure(timing: Timing, loads: Sequence[Load], ways: Sequence[Way]) -> dict[Key, list[Cell]]:
    """Run every round: each router under each load by each way, every round beginning with another router."""
    found: dict[Key, list[Cell]] = defaultdict(list)
    middle_core, generator_core = cores()
    with ExitStack() as life:
        life.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {generator_core})
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        backend, ports, controls = await open_backend(ENGINES, generator_core, folder, life)
        otlp = free_port()
        sink = Child(python("benchmarks.data_plane.otlp_sink", str(otlp)), generator_core, folder / "sink")
        life.callback(sink.kill)
        await sink.listening(otlp)
        alike: list[dict[str, Middle]] = []
        for which in range(PROCESSES_EACH):
            stems = [folder / f"router-{which}-{at}" for at in range(len(WATCHED))]
            started = [
                await _router(stem, middle_core, ports, otlp, env, life)
                for stem, env in zip(stems, WATCHED.values(), strict=True)
            ]
            alike.append(dict(zip(WATCHED, started, strict=True)))
        bench = Bench(controls, backend, (middle_core, generator_core), timing)
        for number in range(timing.rounds):
            say(f"round {number + 1} of {timing.rounds}")
            routers = alike[number % PROCESSES_EACH]
            turn = number % len(routers)
            names = [*routers][turn:] + [*routers][:turn]
            for load in loads:
                for way in ways:
                    asked = replace(way, decisions=ANSWER_TOKENS) if load.name == "answers" else way
                    for name in names:
                        cell = await bench.cell(load, asked, routers[name], load.connections(CONNECTIONS))
                        found[load.name, way.name, name].append(cell)
    return found


async def _router(
    stem: Path, core: int, engines: list[int], otlp: int, env: Mapping[str, str] | None, life: ExitStack
) -> Middle:
    port = free_port()
    router_config(port, engines, stem.with_suffix(".json"))
    watched: dict[str, str] = {}
    if env is not None:
        endpoint = f"http://127.0.0.1:{otlp}"
        watched = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none", **env}
    child = Child(python("router_svc", "--config", f"{stem}.json"), core, stem, more=watched)
    life.callback(child.kill)
    await child.listening(port)
    child.pause()
    return Middle([port], child)


def us_each(load: Load, cell: Cell) -> float:
    """Return the router's CPU in µs: for a token of steady streams, or else for a request."""
    return 1e6 * cell.middle_s / max(1, cell.tokens if load.endless else cell.requests)


def row_of(load: Load, way: str, name: str, cells: list[Cell], unwatched: list[Cell]) -> dict[str, Any]:
    """Return a router's figures under a load; `unwatched` is the one that does not trace, in the same rounds."""
    costs = [us_each(load, cell) for cell in cells]
    shares = [cost / us_each(load, off) - 1 for cost, off in zip(costs, unwatched, strict=True)]
    row: dict[str, Any] = {
        "load": load.name,
        "way": way,
        "traces": name,
        "us_per": "token" if load.endless else "request",
        "us": median(costs),
        "dearer_%": None,
        "middle_half_%": "–",
        "others_cpu_%": 100 * median(cell.other_s[0] / cell.window_s for cell in cells),
        "errors": sum(len(cell.errors) for cell in cells),
    }
    if name != OFF:
        low, high = 100 * percentile(shares, 0.25), 100 * percentile(shares, 0.75)
        row |= {"dearer_%": 100 * median(shares), "middle_half_%": f"{low:+.1f} … {high:+.1f}"}
    return row


def command(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 9,
    quick: Annotated[bool, typer.Option("--quick", help="Short windows.")] = False,
    load: Annotated[str, typer.Option(help="Under this load alone: requests, answers or 32x100.")] = "",
    way: Annotated[str, typer.Option(help="By this way alone: session or generate.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what tracing costs a router per request and per token."""
    loads = [one for one in LOADS if load in ("", one.name)]
    ways = [one for one in WAYS if way in ("", one.name)]
    if not loads or not ways:
        raise typer.BadParameter(f"neither {load!r} nor {way!r} may be another than those named")
    timing = replace(QUICK if quick else FULL, rounds=rounds, probe_s=0.1)
    rows: list[dict[str, Any]] = []

    async def measuring() -> int:
        found = await measure(timing, loads, ways)
        for load in loads:
            for way in ways:
                off = found[load.name, way.name, OFF]
                rows.extend(row_of(load, way.name, name, found[load.name, way.name, name], off) for name in WATCHED)
        return 0

    try:
        run(measuring())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    middle_core, generator_core = cores()
    load = (
        f"core {middle_core}: the router alone; core {generator_core}: client, engine and the spans' receiver;"
        f" medians of {rounds} rounds; the aim is {TARGET:.0%} at 1 %"
    )
    show("what tracing costs a router", rows, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
