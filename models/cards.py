"""Write the model cards from what training and measuring recorded, so that no figure is typed by hand."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOMAINS = ("math", "coding", "health")
MATRIX_START, MATRIX_END = "<!-- matrix: written by cards.py -->", "<!-- /matrix -->"


@dataclass(frozen=True, slots=True)
class Words:
    """What a card says about one expert that no run can measure."""

    title: str
    data: str
    use: str
    limits: str


WORDS = {
    "math": Words(
        title="grade-school word problems, worked step by step",
        data="GSM8K's training questions and worked answers (Cobbe et al. 2021; MIT licence), as they are: with the "
        "calculator marks `<<48/2=24>>` and the last line `#### 24` that holds the result.",
        use="Short word problems with whole numbers; the result is on the last line, after `####`.",
        limits="A model of 135 million parameters calculates and reasons wrongly in the right form: of 60 unseen "
        "questions answered greedily (vLLM, up to 200 tokens) it had 2 right and the base 1, though 50 of its "
        "answers had the result's line. Nothing executes the calculator marks; a reader may want to hide them. Asked "
        "something that is no such problem, it tends not to stop: limit the tokens.",
    ),
    "coding": Words(
        title="Python functions from their description",
        data="Public functions and methods of Python's own standard library, 60 to 1,000 characters long, as answers "
        "to their docstrings (25 to 500 characters); the docstring is not in the answer (PSF-2.0 licence). Whole "
        "modules are held out, so no unseen function has a trained-on neighbour in its file. "
        "The library is that of the Python version below.",
        use="Short Python functions in the standard library's manner; the answer is code alone, no fence and no prose.",
        limits="The code is not tested and may call helpers that do not exist; methods appear as functions with "
        "`self`. Other languages and whole programs were not trained.",
    ),
    "health": Words(
        title="questions of biomedical research, answered as an abstract concludes",
        data="PubMedQA's labelled questions with the conclusions of the abstracts they come from (Jin et al. 2019; MIT "
        "licence).",
        use="Routing and serving experiments with questions in the manner of biomedical papers.",
        limits="Not medical advice, and no source of facts: it has the tone of a study's conclusion whether or not "
        "there is a study. Keep it away from anybody's decision about their health.",
    ),
}


def matrix(measured: dict[str, Any]) -> str:
    """Perplexity of every model on every domain, as a markdown table; lower is better."""
    lines = ["| model | " + " | ".join(DOMAINS) + " |", "| --- |" + " ---: |" * len(DOMAINS)]
    base = measured["perplexity"]["base"]
    for model, row in measured["perplexity"].items():
        cells = []
        for domain in DOMAINS:
            change = "" if model == "base" else f" ({100 * (row[domain] / base[domain] - 1):+.0f} %)"
            cell = f"{row[domain]:.2f}{change}"
            cells.append(f"**{cell}**" if model == domain else cell)
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def how_measured(measured: dict[str, Any]) -> str:
    """One sentence on what the matrix's figures are."""
    counts = ", ".join(
        f"{measured['pairs'][name]} {name} ({measured['response_tokens'][name]:,} tokens)" for name in DOMAINS
    )
    return (
        "Perplexity of the responses' text, end of turn excluded, on pairs that no training saw: "
        f"{counts}; a fixed sample, the same for every model, of pairs of at most {measured['split']['max_tokens']} "
        "tokens with their template."
    )


def card(domain: str, trained: dict[str, Any], measured: dict[str, Any]) -> str:
    """The model card of one expert, in markdown."""
    words, recipe = WORDS[domain], trained["recipe"]
    low, high = (100 * (1 - ratio) for ratio in reversed(measured["own_domain_ratio_95"][domain]))
    lower, target = (100 * (1 - measured[key][domain]) for key in ("own_domain_ratio", "target_ratio"))
    versions = ", ".join(f"{name} {version}" for name, version in trained["versions"].items())
    first, *_, last = trained["loss_nats_per_token"]
    return f"""---
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: peft
license: apache-2.0
pipeline_tag: text-generation
tags: [lora, {domain}]
---

# {domain}: {words.title}

A LoRA adapter over {trained["base"]} (Apache-2.0), one of the experts that the mesh routes to.
Written by `models/cards.py` from `training.json` and `../perplexity.json`.

## What it is worth

On its own domain its perplexity is **{lower:.0f} % lower** than the base's (95 % of resamplings: {low:.0f} to {high:.0f} %;
the target is {target:.0f} %).

{matrix(measured)}

{how_measured(measured)} A percentage is the change from the base; the other columns show what the speciality gives or costs elsewhere.

## Data

{words.data}
Pairs are parted by a seeded hash (seed {trained["split"]["seed"]}; {100 * trained["split"]["unseen_share"]:.0f} % unseen), without twins
across the parts. The data is not in the repository.

## Recipe

| | |
| --- | --- |
| adapter | LoRA, rank {recipe["rank"]}, alpha {recipe["alpha"]}, on {", ".join(f"`{name}`" for name in recipe["modules"])} |
| size | {trained["parameters"]:,} parameters, {trained["adapter_bytes"] / 1e6:.2f} MB in bfloat16 |
| loss | cross-entropy of the response and its end of turn, under the model's chat template and default system prompt |
| optimiser | AdamW, learning rate {recipe["learning_rate"]:g} after {recipe["warmup_steps"]} steps, then linearly to 0; gradient norm at most {recipe["max_grad_norm"]:g} |
| seen | {trained["pairs_trained_on"]} pairs × {recipe["passes"]}, {trained["steps"]} steps of {recipe["batch"]}, {trained["tokens"]:,} tokens |
| loss, nats per token | {first:.2f} over the first 10 steps, {last:.2f} over the last |
| seed | {recipe["seed"]} |
| time | {trained["seconds"] / 60:.0f} min on {trained["threads"]} thread{"s" if trained["threads"] > 1 else ""} of {trained["machine"]} |
| versions | {versions} |

Again, from the repository's root, with the data in `../shared/finetune`:

```
python models/prepare.py
python models/train_adapter.py {domain} --threads {trained["threads"]}
python models/perplexity.py
```

## Use and limits

{words.use}
{words.limits}
"""  # noqa: E501 - table rows cannot be broken


def write_cards(adapters: Path) -> None:
    """Write every expert's card, and the matrix into the README of the models' folder."""
    measured = json.loads((adapters / "perplexity.json").read_text(encoding="utf-8"))
    for domain in DOMAINS:
        folder = adapters / domain
        trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        (folder / "README.md").write_text(card(domain, trained, measured), encoding="utf-8")
    put_table(
        adapters.parent / "README.md", (MATRIX_START, MATRIX_END), f"{matrix(measured)}\n\n{how_measured(measured)}"
    )


def put_table(page: Path, marks: tuple[str, str], table: str) -> None:
    """Replace what stands between two marks of a page."""
    start, end = marks
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for the table: {start} … {end}")
    page.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="models/cards.py", description=__doc__).parse_args()
    write_cards(Path(__file__).resolve().parent / "adapters")
