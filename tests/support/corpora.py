"""Small made-up corpora and what is fitted from them."""

import json
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from router_svc.fitting import lexical as lexical_fit
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.recipe import Settings, fit
from router_svc.strategies.artefact import Artefact

TOPICS = {
    "coding": "python function list return loop compile string bug index code",
    "general": "weather dinner travel film music garden birthday recipe shopping weekend",
    "health": "patient doctor blood disease symptoms treatment heart vaccine dose pain",
    "law": "court contract defendant judge statute appeal liability tort jury evidence",
    "math": "sum integral prove theorem equation triangle number solve derivative matrix",
}
FILLER = ["the", "of", "and", "12", "2nd", "please", "tell", "me", "about", "this", "that", "with", "café", "señor"]
AWKWARD = ["", "a", "7", "2024 3d 4th", "🦙🦙", "the and of", "\0", "\ud800", "x" * 100_000, "数学 سلام", "\n\t"]


def corpus(prompts: int = 120, seed: int = 0) -> list[LabelledPrompt]:
    """Prompts of nine words from one topic and six from none, topics in turn."""
    draw = random.Random(seed)
    topics = list(TOPICS.items())
    lines = []
    for number in range(prompts):
        domain, words = topics[number % len(topics)]
        text = " ".join(draw.choices(words.split(), k=9) + draw.choices(FILLER, k=6))
        lines.append(LabelledPrompt(text, domain, f"made-up/{domain}"))
    return lines


def write_corpus(path: Path, lines: Iterable[LabelledPrompt], *, labelled: bool = True) -> Path:
    """Write prompts as JSON Lines."""
    records: list[dict[str, str | None]] = []
    for line in lines:
        record: dict[str, str | None] = {"prompt": line.prompt}
        if labelled:
            record |= {"domain": line.domain, "source": line.source}
        records.append(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@cache
def small_artefact() -> Artefact:
    """Six clusters fitted from `corpus()`, unsaved."""
    return fit(corpus(), Settings(clusters=6, components=10, starts=3), by_hand={}, sources=[])


@cache
def small_lexical() -> Artefact:
    """A lexical layer fitted from `corpus()`, unsaved."""
    return lexical_fit.fit(corpus(), lexical_fit.Settings(), sources=[])
