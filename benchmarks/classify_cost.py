"""What a classification costs: microseconds per prompt of 60 words, alone and in batches.

    python -m benchmarks.classify_cost [--strategy NAME] [--artefact DIR] [--runs 7] [--prompts FILE.jsonl] [--json]

Prompts are drawn from the words of an artefact, that of `clusters`, and from stop words, so that every word costs its
look-up and about half of them a row of the table, as in ordinary text. No strategy is sure of such a prompt: a cascade
asks its encoder about most.

With `--prompts`, what a request waits for its classification as well, the router's budget and thread included: each of
1 and of 64 callers asks for the next prompt of the file as soon as it has the scores of the last.
"""

import asyncio
import json
import os
import random
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from mesh_wire import mesh_file
from router_svc.classifying.classification import Classifier
from router_svc.fitting.corpus import read_prompts
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import FITTED, Strategy

WORDS = 60
BATCHES = (1, 16, 64)
CALLERS = (1, 64)
MESH = Path("mesh.yaml")
PROMPTS = 1024
COMMON = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "2",
    "10",
]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def made_up(words: tuple[str, ...]) -> list[str]:
    """Return prompts of `WORDS` words, half of them from the vocabulary."""
    draw = random.Random(0)
    half = WORDS // 2
    prompts = [draw.choices(words, k=half) + draw.choices(COMMON, k=WORDS - half) for _ in range(PROMPTS)]
    for prompt in prompts:
        draw.shuffle(prompt)
    return [" ".join(prompt) for prompt in prompts]


def cost_us(strategy: Strategy, prompts: list[str], batch: int) -> float:
    """Return the median over batches of the processor time per prompt, in microseconds: neighbours do not count."""
    times = []
    for at in range(0, len(prompts), batch):
        texts = prompts[at : at + batch]
        began = process_time()
        strategy.scores(texts)
        times.append((process_time() - began) / len(texts))
    return median(times) * 1e6


async def waits(strategy: Strategy, prompts: list[str], callers: int, budget_s: float) -> dict[str, Any]:
    """Return what callers wait for scores, in milliseconds, and which share the intended strategy decided in time."""
    classifier = Classifier(strategy, budget_s=budget_s)
    left = iter(prompts)
    took: list[float] = []
    intended = 0

    async def ask() -> None:
        nonlocal intended
        for prompt in left:
            began = perf_counter()
            scored = await classifier.scored(prompt)
            took.append((perf_counter() - began) * 1e3)
            intended += not scored.fallback

    try:
        await asyncio.gather(*(ask() for _ in range(callers)))
    finally:
        await classifier.aclose()
    p50, p99 = np.percentile(took, (50, 99))
    return {
        "callers": callers,
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "mean_ms": round(float(np.mean(took)), 3),
        "in_time": round(intended / len(took), 4),
    }


@app.command()
def main(
    strategy: Annotated[str | None, typer.Option(help=f"One of {', '.join(FITTED)}. [default: that of {MESH}]")] = None,
    artefact: Annotated[Path | None, typer.Option(help="Folder of the artefact. [default: the shipped one]")] = None,
    words: Annotated[Path, typer.Option(help="Folder of the artefact whose words are used.")] = Path(
        "models/router/clusters"
    ),
    prompts: Annotated[Path | None, typer.Option(help="JSON Lines with `prompt`: what callers wait as well.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; the median is shown.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure the cost of classifying prompts of 60 words on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    strategy = strategy or mesh_file.read(MESH).router.strategy
    opened = open_strategy(
        strategy, artefact=artefact or Path("models/router") / strategy, experts=(), pinned=None, seed=0
    )
    texts = made_up(artefacts.load(words).words)
    cost_us(opened, texts, 1)  # warm
    found = {batch: median(cost_us(opened, texts, batch) for _ in range(runs)) for batch in BATCHES}
    waited: list[dict[str, Any]] = []
    if prompts is not None:
        asked = [line.prompt for line in read_prompts(prompts)]
        budget_s = mesh_file.read(MESH).router.classify_budget_ms / 1e3
        waited = [asyncio.run(waits(opened, asked, callers, budget_s)) for callers in CALLERS]
    if as_json:
        costs = {str(batch): round(cost, 2) for batch, cost in found.items()}
        print(
            json.dumps(
                {
                    "strategy": strategy,
                    "artefact": opened.generation,
                    "words": WORDS,
                    "runs": runs,
                    "us_per_prompt": costs,
                    "waits": waited,
                }
            )
        )
        return
    table = Table(
        "batch", "µs per prompt", title=f"{strategy}, {WORDS} words a prompt, artefact {opened.generation}, {runs} runs"
    )
    for batch, cost in found.items():
        table.add_row(str(batch), f"{cost:.1f}")
    Console().print(table)
    if waited:
        callers_table = Table(*waited[0], title="waiting for scores")
        for row in waited:
            callers_table.add_row(*map(str, row.values()))
        Console().print(callers_table)


if __name__ == "__main__":
    app()
