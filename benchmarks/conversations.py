"""What do the parts of a conversation weigh? Chosen and judged on conversations made from labelled prompts.

    python -m benchmarks.conversations --prompts dev.jsonl [--strategy NAME] [--artefact DIR] [--json]

Half of the prompts choose the weights, the other half judges them. The kinds of conversation:

- `alone`: a prompt; its domain is right, here and wherever nothing else is said.
- `follow_up`: a prompt, then a turn that says nothing by itself, such as "and why?"; the first turn's domain is right.
- `switch`: prompts of two domains; the last turn's is right.
- `system_vague`: a system prompt that names a domain, and a turn that says nothing.
- `system_neutral`: a system prompt that names none, and a prompt.
- `system_other`: a system prompt that names a domain, and a prompt of another one.
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from router_svc.classifying import conversation
from router_svc.classifying.conversation import Reading, joined
from router_svc.fitting.corpus import LabelledPrompt, read_prompts
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import FITTED, Strategy

EACH = 300  # conversations of a kind
GRID = 0.02, 0.05, 0.1, 0.2, 0.4
WORDS, STEEPNESS = (2, 3, 4), (1, 2, 4)
# Turns that say nothing by themselves: some to choose by, others to judge by.
VAGUE = """and why?|go on|Can you explain that again?|I don't understand|are you sure?|what about the second one?
Please explain it step by step.|shorter please|Give me another example.|Could you say that more simply?|continue
hm, is that really true?|What do you mean by that?|ok, and then?|Thanks! Anything else I should know?|try again"""
VAGUE_UNSEEN = """Why is that the case?|How did you get there?|That makes no sense to me|Which of these is better?
Is there a shorter way?|Wait, where does that come from?|could you elaborate on the last point
So the first one is right?|What happens if I leave that out?|Hmm. Explain it like I'm five.|Any alternatives?
you lost me at the second part|in other words?|Great, now the opposite|Can you double check?|and if it were not so?"""
SYSTEM = {
    "coding": "You are an expert programmer. Answer with working code.|You review Python code for a software team.",
    "general": "You are a cheerful companion for everyday questions.|You help people plan trips and write letters.",
    "health": "You are a medical assistant that answers questions of patients and nurses.|You advise on symptoms.",
    "law": "You are a legal assistant at a law firm.|You explain statutes and court decisions to lawyers.",
    "math": "You are a patient mathematics tutor.|You solve mathematical problems and show each step.",
    "science": "You teach physics, chemistry and biology.|You are a science tutor for high school students.",
}
NEUTRAL = "You are a helpful assistant.|Answer briefly and politely.|You are a chat bot. Do not make things up."

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation and the domain that should answer it."""

    kind: str
    reading: Reading
    domain: str


def talks_of(prompts: Sequence[LabelledPrompt], vague: str, seed: int) -> list[Talk]:
    """Make conversations, all domains alike; `vague` are turns that say nothing, with | or line breaks between."""
    draw = random.Random(seed)
    of: defaultdict[str, list[str]] = defaultdict(list)
    for line in prompts:
        if line.domain in SYSTEM:
            of[line.domain].append(line.prompt)
    vagues = vague.replace("\n", "|").split("|")
    talks: list[Talk] = []
    for at in range(EACH):
        domain = sorted(of)[at % len(of)]
        other = draw.choice(sorted(of.keys() - {domain}))
        prompt, nothing = draw.choice(of[domain]), draw.choice(vagues)
        told, told_other = (draw.choice(SYSTEM[each].split("|")) for each in (domain, other))
        talks += [
            Talk("alone", Reading(prompt), domain),
            Talk("follow_up", Reading(nothing, prompt), domain),
            Talk("switch", Reading(prompt, draw.choice(of[other])), domain),
            Talk("system_vague", Reading(nothing, "", told), domain),
            Talk("system_neutral", Reading(prompt, "", draw.choice(NEUTRAL.split("|"))), domain),
            Talk("system_other", Reading(prompt, "", told_other), domain),
        ]
    return talks


class Scored:
    """Conversations whose parts were scored once, for trying weights."""

    def __init__(self, strategy: Strategy, talks: Sequence[Talk]) -> None:
        self._talks = talks
        self._experts = strategy.experts
        texts = sorted({text for talk in talks for text in talk.reading.texts})
        rows = np.concatenate([strategy.scores(texts[at : at + 32]) for at in range(0, len(texts), 32)])
        self._row = dict(zip(texts, rows, strict=True))

    def accuracy(self, weights: conversation.Weights) -> dict[str, float]:
        """Return the share of each kind that goes to the right domain."""
        hits: defaultdict[str, list[bool]] = defaultdict(list)
        for talk in self._talks:
            rows: NDArray[np.float32] = np.stack([self._row[text] for text in talk.reading.texts])
            best = joined(rows, talk.reading.weights(weights)).argmax()
            hits[talk.kind].append(self._experts[int(best)] == talk.domain)
        return {kind: round(float(np.mean(found)), 4) for kind, found in hits.items()}


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON Lines with `prompt` and `domain`.")],
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(FITTED)}.")] = "lexical",
    artefact: Annotated[Path | None, typer.Option(help="Folder of the artefact. [default: the shipped one]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Choose weights on one half, judge on the other."""
    opened = open_strategy(
        strategy, artefact=artefact or Path("models/router") / strategy, experts=(), pinned=None, seed=0
    )
    lines = read_prompts(prompts)
    choosing = Scored(opened, talks_of(lines[::2], VAGUE, seed=0))
    judging = Scored(opened, talks_of(lines[1::2], VAGUE_UNSEEN, seed=1))
    tried = [conversation.Weights(*each) for each in product(GRID, GRID, WORDS, STEEPNESS)]
    best = max(tried, key=lambda one: np.mean([*choosing.accuracy(one).values()]))
    found = {
        "last turn alone": judging.accuracy(conversation.Weights(0, 0, 1, 0)),
        f"shipped: {conversation.WEIGHTS}": judging.accuracy(conversation.WEIGHTS),
        f"best of the other half: {best}": judging.accuracy(best),
    }
    if as_json:
        print(json.dumps({"strategy": strategy, "artefact": opened.generation, "conversations": EACH} | found))
        return
    table = Table("weights", *next(iter(found.values())), "mean", title=f"{strategy} {opened.generation}")
    for name, kinds in found.items():
        table.add_row(name, *(f"{share:.3f}" for share in kinds.values()), f"{np.mean([*kinds.values()]):.3f}")
    Console().print(table)


if __name__ == "__main__":
    app()
