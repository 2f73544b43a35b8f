"""What a classification costs: microseconds per prompt of 60 words, alone and in batches.

    python -m benchmarks.classify_cost [--strategy NAME] [--artefact DIR] [--runs 7] [--json]

Prompts are drawn from the words of an artefact, that of `clusters`, and from stop words, so that every word costs its
look-up and about half of them a row of the table, as in ordinary text.
"""

import json
import os
import random
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import FITTED, Strategy

WORDS = 60
BATCHES = (1, 16, 64)
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


@app.command()
def main(
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(FITTED)}.")] = "clusters",
    artefact: Annotated[Path | None, typer.Option(help="Folder of the artefact. [default: the shipped one]")] = None,
    words: Annotated[Path, typer.Option(help="Folder of the artefact whose words are used.")] = Path(
        "models/router/clusters"
    ),
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; the median is shown.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure the cost of classifying prompts of 60 words on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    opened = open_strategy(
        strategy, artefact=artefact or Path("models/router") / strategy, experts=(), pinned=None, seed=0
    )
    prompts = made_up(artefacts.load(words).words)
    cost_us(opened, prompts, 1)  # warm
    found = {batch: median(cost_us(opened, prompts, batch) for _ in range(runs)) for batch in BATCHES}
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


if __name__ == "__main__":
    app()
