"""What the encoder costs: milliseconds a prompt of 16, 64 and 128 tokens, alone and in batches, on one core.

    python -m benchmarks.encoder_cost [--artefact DIR] [--prompts 200] [--json]

Prompts are one-token words; tokenising and the head are in the time. Processor time and elapsed time are both measured:
where they differ, neighbours were at work.
"""

import json
import os
import random
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.encoder import Encoder

TOKENS = (16, 64, 128)
BATCHES = (1, 8, 32)
MARKS = 2  # tokens that a prompt gets at its ends
WORDS = ("how", "what", "write", "find", "court", "blood", "python", "number", "film", "water", "money", "music")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def costs(encoder: Encoder, tokens: int, batch: int, prompts: int) -> dict[str, float]:
    """Return milliseconds a prompt: p50 and p99 over batches, of elapsed time and of processor time."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=tokens - MARKS)) for _ in range(batch)]
    encoder.scores(texts)  # warm
    elapsed, processor = [], []
    for _ in range(max(8, prompts // batch)):
        began, began_cpu = perf_counter(), process_time()
        encoder.scores(texts)
        elapsed.append(perf_counter() - began)
        processor.append(process_time() - began_cpu)
    found = {}
    for name, times in (("elapsed", elapsed), ("processor", processor)):
        for percent in (50, 99):
            found[f"{name}_p{percent}_ms"] = round(float(np.percentile(times, percent)) * 1e3 / batch, 3)
    return found


@app.command()
def main(
    artefact: Annotated[Path, typer.Option(help="Folder of the artefact.")] = Path("models/router/encoder"),
    prompts: Annotated[int, typer.Option(min=1, help="Prompts timed for each size.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure the cost of encoding a prompt on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    encoder = Encoder(artefacts.load(artefact))
    rows = [
        {"tokens": tokens, "batch": batch, **costs(encoder, tokens, batch, prompts)}
        for tokens in TOKENS
        for batch in BATCHES
    ]
    if as_json:
        print(json.dumps({"artefact": encoder.generation, "prompts": prompts, "rows": rows}))
        return
    table = Table(*rows[0], title=f"ms per prompt, artefact {encoder.generation}, one core")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    app()
