"""`python -m expertmesh_client.demo`, or `make demo`: a whole mesh asked real questions, with the time per hop."""

import asyncio
import json
import os
import shutil
import sys
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from expertmesh_client.cli.failures import Commands, Failure

QUESTIONS = (
    (
        "mathematics",
        "A baker sells 12 loaves at $3 each and 8 cakes at $5 each. How much money does she make in total?",
    ),
    ("coding", "Write a Python function that checks whether a string is a palindrome."),
    ("health", "What are common symptoms of iron deficiency anaemia, and how is it treated?"),
    ("everyday", "What is a good recipe for tomato soup?"),
    ("science", "How do plants turn sunlight into energy?"),
    ("law", "What makes a contract legally binding?"),
    ("mathematics", "Solve for x: 3x + 7 = 22. Show each step."),
    ("health", "Does regular exercise lower blood pressure in patients with hypertension?"),
)
MAX_TOKENS = 64

app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.callback(invoke_without_command=True)
def demo(
    config: Annotated[Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file.")] = Path("mesh.yaml"),
    simulated: Annotated[bool, typer.Option("--simulated", help="Simulated engines in place of real ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Start a mesh, ask it questions of different domains, show answers, routes and the time per hop, stop it."""
    from expertmesh_client.stopping import until_told

    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[variable]  # the demo shows its own traces, all of them
    result = asyncio.run(until_told(_demo(config, simulated, as_json)))
    if result is None:
        raise KeyboardInterrupt
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=2))


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with its answer."""

    domain: str
    prompt: str
    text: str
    expert: str
    replica: str
    reason: str
    score: float
    completion_tokens: int
    seconds: float
    trace_id: str


async def _demo(config: Path, simulated: bool, as_json: bool) -> dict[str, Any]:
    from expertmesh_client.cli.up import explained
    from expertmesh_client.progress import progress_on
    from expertmesh_client.running import ChildFailed, running_mesh
    from expertmesh_client.traces.hops import hops_of, medians
    from expertmesh_client.traces.jaeger import TraceUnavailable, fetch_trace

    say = _Says(sys.stderr if as_json else sys.stdout)
    began = time.monotonic()
    say(f"starting the mesh of {config}; the engines take about a minute" + (" (simulated)" if simulated else ""))
    try:
        async with running_mesh(config, simulated=simulated, progress=progress_on(sys.stderr)) as mesh:
            say(f"all SERVING after {time.monotonic() - began:.0f} s: {', '.join(c.name for c in mesh.children)}")
            assert mesh.traces is not None
            questions = asyncio.create_task(_ask_all(mesh.target, mesh.router.tls, mesh.traces.otlp_endpoint, say))
            broken = asyncio.create_task(mesh.broken())
            try:
                await asyncio.wait((questions, broken), return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    broken.result()
                answers = await questions
            finally:
                questions.cancel()
                broken.cancel()
                await asyncio.gather(questions, broken, return_exceptions=True)
            traces = []
            for asked in answers:
                spans, missing = await fetch_trace(mesh.traces.query_url, asked.trace_id)
                if missing:
                    raise Failure(f"trace {asked.trace_id} is incomplete: {missing}")
                traces.append(hops_of(spans))
            say("\nstopping the mesh")
    except ChildFailed as failed:
        raise explained(failed) from None
    except TraceUnavailable as error:
        raise Failure(str(error)) from None
    shutil.rmtree(mesh.logs)
    hops, whole_s = medians(traces), median(sum(trace.values()) for trace in traces)
    say.table(hops, whole_s, len(traces))
    say(f"\ndone after {time.monotonic() - began:.0f} s")
    return {"answers": [asdict(asked) for asked in answers], "hops": hops, "whole": whole_s}


async def _ask_all(target: str, tls: Any, otlp: str, say: "_Says") -> list[Asked]:
    from expertmesh_client.aio import AsyncClient
    from mesh_wire.telemetry import exporting

    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_METRICS_EXPORTER": "none"}
    with exporting("expertmesh-client", f"demo-{os.getpid()}", env=env) as telemetry:
        async with AsyncClient(target, tls=tls, timeout_s=300, telemetry=telemetry, over="generate") as client:
            await client.experts()  # the connection is not part of the first answer's time
            return [await _ask(client, domain, prompt, say) for domain, prompt in QUESTIONS]


async def _ask(client: Any, domain: str, prompt: str, say: "_Says") -> Asked:
    from expertmesh.v1.generation_pb2 import Delta, RouteChosen
    from mesh_wire.words import reason_word

    say(f"\n[{domain}] {prompt}")
    began = time.monotonic()
    answer = client.generate(prompt, sampling={"max_new_tokens": MAX_TOKENS, "temperature": 0})
    async with aclosing(answer.events()) as events:
        async for event in events:
            match event:
                case RouteChosen() as route:
                    say(f"→ {route.expert} on {route.replica}, {reason_word(route.reason)}: {route.explanation}")
                case Delta(text=text):
                    say(text, end="")
    took_s = time.monotonic() - began
    route, finished = answer.route, answer.finished
    if route is None or finished is None or not answer.text.strip():
        raise Failure(f"no answer to {prompt!r}")
    say(f"\n({finished.usage.completion_tokens} tokens in {took_s:.1f} s)")
    return Asked(
        domain=domain,
        prompt=prompt,
        text=answer.text,
        expert=route.expert,
        replica=route.replica,
        reason=reason_word(route.reason),
        score=route.score,
        completion_tokens=finished.usage.completion_tokens,
        seconds=took_s,
        trace_id=answer.trace_id,
    )


class _Says:
    """Writes for people."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __call__(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._stream, flush=True)

    def table(self, hops: dict[str, float], whole_s: float, count: int) -> None:
        self(f"\ntime per hop, median of {count} answers, from their spans")
        for hop, seconds in hops.items():
            self(f"  {hop:<18} {seconds * 1e3:10.2f} ms {seconds / whole_s:7.1%}")
        self(f"  {'whole answer':<18} {whole_s * 1e3:10.2f} ms")


if __name__ == "__main__":
    app(prog_name="python -m expertmesh_client.demo")
