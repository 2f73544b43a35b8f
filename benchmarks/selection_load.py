"""What selection buys under a skewed load: four experts, two simulated replicas each, most prompts of one domain.

    python -m benchmarks.selection_load [--prompts FILE.jsonl] [--loads 50,80,100,120] [--out FILE.json] [--json]
    python -m benchmarks.selection_load --real --loads 100 --seconds 30 --goal 2

Router and experts are processes of their own, prompts arrive as a Poisson process, and the domain of a prompt is what a
real strategy makes of it; only the engines' time is simulated. The fleet is the same for all ways of selecting:

    content          the best expert answers, however long its queue is
    spill            another answers where that saves more waiting than the lost probability is worth
    spill + sibling  and each expert has a twin in lower precision on engines of the others, which answers likewise
    load only        whoever has the shortest queue answers, whatever the prompt is about

A twin takes as long as the expert itself here, and shares its engine with the expert that lives there: what is shown
is what a place to go to is worth, not what low precision saves. The fleet's capacity, 100 %, is what it answers in a
closed loop that keeps every place of every engine taken. An answer is routed right where the expert of its
label's domain gave it, in whichever precision. Every answer is waited for, so that the slowest count as they were.

With `--real`, the two vLLM engines of `mesh.yaml` in place of the simulated ones: two experts each, and no twin. On
one machine they share its cores: the one with the shorter queue is no quicker. Without `--prompts`, prompts are short,
as a busy machine wants them.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.report import machine
from benchmarks.selection_fleet import EXPERTS, PROFILE, REPLICAS, engines, fleet_of, real_engines, router_of, ways
from expertmesh_client.load.climb import acquainted, climb
from expertmesh_client.load.plan import Job, Rung
from mesh_wire.process import run

OUTPUT_TOKENS = "8..24"
OUTPUT_TOKENS_REAL = "4..12"
USERS_REAL = 16  # that keep two engines on a few cores as busy as they can be
WARM_REAL_S, LAST_REAL_S = 8.0, 25.0  # of measuring their capacity
DRAIN_S = 90.0
ROOT = Path(__file__).parents[1]


async def capacity_of(
    job: Job, folder: Path, sections: Sequence[Mapping[str, Any]], settings: Any, *, real: bool = False
) -> float:
    """Return the requests per second that the fleet answers while none of its places is ever free."""
    users = USERS_REAL if real else PROFILE.slots * len(sections) * 5 // 4
    measured = Rung(users=users, warm_s=WARM_REAL_S if real else 2, last_s=LAST_REAL_S if real else 6, drain_s=0)
    # An engine's first batches may take as long as the measurement: they are waited for before.
    first = [Rung(users=users, warm_s=0, last_s=1, drain_s=DRAIN_S)] if real else []
    async with router_of("capacity", settings, sections, folder) as target:
        *_, result = await _climbed(job.model_copy(update={"target": target, "skew": {}}), [*first, measured])
    if not result["requests_per_s"]:
        raise RuntimeError(f"the fleet answered nothing within {measured.all_s:g} s: there is no load to speak of")
    return float(result["requests_per_s"])


async def measure(
    job: Job, ways: Mapping[str, Any], loads: Sequence[float], twins: int, seconds: float, *, real: bool = False
) -> dict[str, Any]:
    """Return the fleet's capacity, and a row for each load and way."""
    rows: list[dict[str, Any]] = []
    with _folder() as folder:
        sections = real_engines(ROOT / "mesh.yaml") if real else engines(twins)
        async with fleet_of(sections, folder):
            _say("measuring the fleet's capacity")
            capacity = await capacity_of(job, folder, sections, ways["load only"], real=real)
            rungs = [
                Rung(number=at, rate=capacity * load / 100, warm_s=2, last_s=seconds, drain_s=DRAIN_S)
                for at, load in enumerate(loads)
            ]
            for name, settings in ways.items():
                _say(f"{name}: {', '.join(rung.words for rung in rungs)}")
                async with router_of(name, settings, sections, folder) as target:
                    results = await _climbed(job.model_copy(update={"target": target}), rungs)
                rows += [_row(load, name, result) for load, result in zip(loads, results, strict=True)]
    rows.sort(key=lambda row: row["load"])
    return {"capacity_per_s": capacity, "rows": rows}


async def _climbed(job: Job, rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    await climb(await acquainted(job), rungs, results.append)
    return results


def _row(load: float, way: str, result: Mapping[str, Any]) -> dict[str, Any]:
    reasons = result["routed"]["reasons"]
    routed = max(1, sum(reasons.values()))
    return {
        "load": load,
        "way": way,
        "asked": result["asked"],
        **{f"first_token_{name}_s": result["first_token_s"][name] for name in ("p50", "p95", "p99")},
        "goodput_per_s": result["goodput_per_s"],
        "accuracy": result["routed"]["accuracy"],
        "spilled": reasons.get("spilled", 0) / routed,
        "by_twin": reasons.get("sibling", 0) / routed,
        "unfinished": result["unfinished"],
        "failed": result["failed"],
        "generator_late_p99_s": result["generator"]["lag_s"]["p99"],
        "generator_saturated": result["generator"]["saturated"],
        "result": result,
    }


def markdown(found: Mapping[str, Any], goal_s: float) -> str:
    """Return the table, and what it says of the aim."""
    lines = [
        f"| load, of {found['capacity_per_s']:.3g} requests/s | selection | first token p50 | p95 | p99 | "
        f"goodput/s (within {goal_s:g} s) | routed right | spilled | by a twin |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        least = "≥ " if row["unfinished"] else ""  # some had no end: their waits are counted as far as they were seen
        times = " | ".join(f"{least}{row[f'first_token_{name}_s'] * 1e3:,.0f} ms" for name in ("p50", "p95", "p99"))
        shares = " | ".join(f"{row[name]:.1%}" for name in ("accuracy", "spilled", "by_twin"))
        doubt = " (generator late)" if row["generator_saturated"] else ""
        lines.append(f"| {row['load']:g} % | {row['way']}{doubt} | {times} | {row['goodput_per_s']:.1f} | {shares} |")
    return "\n".join([*lines, "", *_against_content(found["rows"])])


def _against_content(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say for each load and way how much sooner and how much less often right it is than routing by content alone."""
    plain = {row["load"]: row for row in rows if row["way"] == "content"}
    for row in rows:
        if (content := plain.get(row["load"])) is not None and row is not content:
            sooner = content["first_token_p95_s"] / row["first_token_p95_s"]
            lost = (content["accuracy"] - row["accuracy"]) * 100
            at_least = "at least " if content["unfinished"] and not row["unfinished"] else ""
            yield (
                f"- at {row['load']:g} %, {row['way']}: p95 {at_least}{sooner:.1f} times better than content, "
                f"{lost:.1f} points of routed accuracy lost"
            )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def command(
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with `prompt` and `domain`.")] = None,
    strategy: Annotated[str, typer.Option(help="What scores prompts.")] = "lexical",
    artefact: Annotated[Path | None, typer.Option(help="What it was fitted to.")] = None,
    loads: Annotated[str, typer.Option(help="Percent of the fleet's capacity.")] = "50,80,100,120",
    domain: Annotated[str, typer.Option(help="The domain that most prompts are of.")] = "math",
    share: Annotated[float, typer.Option(min=0, max=1, help="How many of them are.")] = 0.8,
    spill_ms: Annotated[float, typer.Option(min=0, help="The router's `spill_ms_per_point`.")] = 20.0,
    floor: Annotated[float, typer.Option(min=0, max=1, help="The router's `quality_floor`.")] = 0.1,
    sibling_ms: Annotated[float, typer.Option(min=0, help="The router's `sibling_ms`.")] = 100.0,
    twins: Annotated[int, typer.Option(min=1, max=len(EXPERTS) - 1, help="Twins on each engine.")] = len(EXPERTS) - 1,
    seconds: Annotated[float, typer.Option(min=1, help="Measured, at each load and way.")] = 7.0,
    goal: Annotated[float, typer.Option(min=0, help="Seconds to a first token that count as good.")] = 0.5,
    real: Annotated[
        bool, typer.Option("--real", help="Two engines of vLLM, those of mesh.yaml; takes minutes.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of arrivals, prompts and lengths.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Measure what selection by load, content and precision does to a fleet under a skewed load."""
    if artefact is None:
        artefact = ROOT / "models/router" / strategy
    job = Job(
        target="",
        prompts=prompts,
        skew={domain: share},
        output_tokens=OUTPUT_TOKENS_REAL if real else OUTPUT_TOKENS,
        exact=True,
        goal_first_token_s=goal,
        seed=seed,
    )
    found: dict[str, Any] = {"measures": "selection under load", "machine": machine()}
    found["settings"] = {
        "experts": EXPERTS,
        "replicas": 1 if real else REPLICAS,
        "twins_on_each_engine": 0 if real else twins,
        "profile": "vLLM" if real else PROFILE.model_dump(exclude_defaults=True),
        "job": job.model_dump(mode="json", exclude={"tls", "target", "prompts"}),
        "prompts": prompts.name if prompts is not None else "built in",
        "ways": ways(strategy, artefact, spill_ms, floor, sibling_ms),
    }

    if real:
        del found["settings"]["ways"]["spill + sibling"]

    async def measuring() -> int:
        each = [float(load) for load in loads.split(",")]
        found.update(await measure(job, found["settings"]["ways"], each, twins, seconds, real=real))
        return 0

    run(measuring())
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found) if as_json else markdown(found, goal))


if __name__ == "__main__":
    typer.run(command)
