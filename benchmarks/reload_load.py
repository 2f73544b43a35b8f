"""Does anybody notice a reload: 200 requests a second while the mesh file and the artefact change, ten times well and
ten times badly.

    python -m benchmarks.reload_load [--strategy cascade] [--rate 200] [--seconds 30] [--json]

Router and experts are processes of their own, and only the engines' time is simulated. Requests arrive as a Poisson
process and wait for nobody, over the session and by `Generate` in turn. The changes are spread evenly over the time: a
mesh file with a threshold out of range, then a good one; an artefact cut in half, then a whole new one; and again.
A change is under way from when its file is written to when the router says of it that it is served, or refused; any
request that overlaps that counts as during a change. Failed is whatever was not a whole answer.
"""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from benchmarks.report import median, percentile, show
from benchmarks.selection_fleet import fleet_of, router_of, simulated_engines, written
from expertmesh_client import AsyncClient
from expertmesh_client.load.plan import Asks, Job
from mesh_wire.errors import MeshError
from mesh_wire.process import run
from mesh_wire.settings import Simulation
from router_svc.strategies import artefact as artefacts

ROOT = Path(__file__).parents[1]
EACH = 10  # good changes, and as many bad ones
TOKENS = 4
# Engines with time to spare: what is waited for is the router.
PROFILE = Simulation(prefill_tokens_per_s=100_000, step_base_s=0.002, step_per_sequence_s=0, slots=64)
LOOK_S = 0.1  # between two questions whether a change is served
SERVED_WITHIN_S = 20.0
ROUTER = "reload"  # the name of the router's mesh file


@dataclass(slots=True)
class Seen:
    """What came of the requests, and when changes were under way; moments in seconds of one clock."""

    answers: list[tuple[float, float]] = field(default_factory=list)  # from, to
    failures: list[str] = field(default_factory=list)
    generations: set[int] = field(default_factory=set)
    changes: list[tuple[str, float, float]] = field(default_factory=list)  # outcome, from, to


async def ask(client: AsyncClient, prompt: str, seen: Seen) -> None:
    """Ask once, and take note."""
    began = perf_counter()
    try:
        answer = client.generate(prompt, sampling={"max_new_tokens": TOKENS, "ignore_eos": True}, timeout_s=30)
        text = await answer.read()
    except MeshError as error:
        seen.failures.append(f"{error.code.name} {error}")
        return
    if not text or answer.route is None:
        seen.failures.append("no whole answer")
        return
    seen.generations.add(answer.route.generation)
    seen.answers.append((began, perf_counter()))


async def load(clients: Sequence[AsyncClient], rate: float, seconds: float, seen: Seen) -> float:
    """Ask at random moments, whatever has come back so far; returns by how much the latest question was late."""
    draw, asks = random.Random(0), Asks(Job(target=""))
    began, at, late = perf_counter(), 0.0, 0.0
    async with asyncio.TaskGroup() as asking:
        for number in range(sys.maxsize):
            at += draw.expovariate(rate)
            if at > seconds:
                return late
            await asyncio.sleep(max(0.0, began + at - perf_counter()))
            late = max(late, perf_counter() - began - at)
            asking.create_task(ask(clients[number % len(clients)], asks.draw(draw).text, seen))
    return late


class Changes:
    """The router's files, and the changes that are made to them."""

    def __init__(self, client: AsyncClient, config: Path, artefact: Path, seen: Seen) -> None:
        self._client = client
        self._config = config
        self._artefact = artefact
        self._seen = seen
        self._good = artefacts.load(artefact)

    async def make(self, number: int) -> None:
        """Make the change of this number, from 0: bad and good in turn, of the mesh file and of the artefact."""
        pair, good = divmod(number, 2)
        if pair % 2 == 0:
            await self._watched(bool(good), lambda: self._policy(0.3 + pair / 100 if good else 7.0))
        elif good:
            await self._watched(True, lambda: self._whole(pair))
        else:
            await self._watched(False, self._cut)

    def _policy(self, threshold: float) -> None:
        mesh = json.loads(self._config.read_text(encoding="utf-8"))
        mesh["router"]["threshold"] = threshold
        written(self._config, mesh)

    def _whole(self, number: int) -> None:
        artefacts.save(self._artefact, replace(self._good, mapping={**self._good.mapping, "change": number}))

    def _cut(self) -> None:
        manifest = self._artefact / artefacts.MANIFEST
        manifest.write_bytes(manifest.read_bytes()[:500])

    async def _watched(self, good: bool, change: Callable[[], None]) -> None:
        before = (await self._client.simulated_engines(2, PROFILE)).generation
        began = perf_counter()
        change()

        async def done() -> bool:
            fleet = await self._client.simulated_engines(2, PROFILE)
            return fleet.generation > before if good else bool(fleet.not_taken)

        await _until(done)
        self._seen.changes.append(("taken" if good else "refused", began, perf_counter()))


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SERVED_WITHIN_S):
        while not await done():  # noqa: ASYNC110 - a router tells nobody
            await asyncio.sleep(LOOK_S)


async def measure(strategy: str, rate: float, seconds: float) -> tuple[Seen, float]:
    """Run it all; returns what was seen, and by how much the generator was late at most."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artefact = folder / strategy
        artefacts.save(artefact, artefacts.load(ROOT / "models/router" / strategy))
        for part in ("lexical", "encoder"):  # that a cascade names, beside itself
            if part != strategy:
                (folder / part).symlink_to(ROOT / "models/router" / part)
        sections = simulated_engines(2, PROFILE)
        settings = {"strategy": strategy, "artefact": str(artefact), "threshold": 0.4}
        async with (
            fleet_of(sections, folder),
            router_of(ROUTER, settings, sections, folder) as target,
            AsyncClient(target, over="session") as by_session,
            AsyncClient(target, over="generate") as by_generate,
            AsyncClient(target) as watching,
        ):
            changes = Changes(watching, folder / f"{ROUTER}.yaml", artefact, seen)
            asking = asyncio.create_task(load([by_session, by_generate], rate, seconds, seen))
            try:
                began = perf_counter()
                for number in range(2 * EACH):
                    due = began + seconds * (number + 1) / (2 * EACH + 2)
                    await asyncio.sleep(max(0.0, due - perf_counter()))
                    await changes.make(number)
                late = await asking
            finally:
                asking.cancel()
    return seen, late


def rows_of(seen: Seen) -> list[dict[str, Any]]:
    """Return a row for the requests during a change and one for the others."""
    spans = [(began, ended) for _, began, ended in seen.changes]
    times: dict[bool, list[float]] = {True: [], False: []}
    for began, ended in seen.answers:
        during = any(began <= end and ended >= start for start, end in spans)
        times[during].append((ended - began) * 1e3)
    return [
        {
            "requests": "during a change" if during else "otherwise",
            "answered": len(found),
            "p50_ms": median(found) if found else None,
            "p99_ms": percentile(found, 0.99) if found else None,
            "largest_ms": max(found, default=None),
        }
        for during, found in times.items()
    ]


def command(
    strategy: Annotated[str, typer.Option(help="Whose shipped artefact changes.")] = "cascade",
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 200.0,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long they come. Changes take longer where it is short.")
    ] = 40.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure what requests notice of reloads."""
    found: list[tuple[Seen, float]] = []

    async def measuring() -> int:
        found.append(await measure(strategy, rate, seconds))
        return 0

    run(measuring())
    [(seen, late)] = found
    took = {
        outcome: [end - start for kind, start, end in seen.changes if kind == outcome]
        for outcome in ("taken", "refused")
    }
    show(
        f"requests while the mesh file and the artefact of {strategy} change",
        rows_of(seen),
        as_json=as_json,
        load=f"{rate:g} requests/s for {seconds:g} s, {TOKENS} tokens each; latest question {late * 1e3:.0f} ms late",
        requests=len(seen.answers) + len(seen.failures),
        failed=len(seen.failures),
        failures=sorted(set(seen.failures))[:5],
        generations_seen=len(seen.generations),
        **{f"changes_{name}": f"{len(times)}, after {median(times):.1f} s" for name, times in took.items()},
    )


if __name__ == "__main__":
    typer.run(command)
