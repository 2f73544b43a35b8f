"""Labelled prompts for the encoder, and how training alters them so that it learns subjects and not formats."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHOICE = re.compile(r"\n\s*\(?[A-Ja-j][.)]\s.*")
# People talk to an assistant in ways that benchmark questions never show; none of these says what it is about.
OPENINGS = (
    "Please help me with this. ",
    "Can you answer this? ",
    "I have a question: ",
    "You are a helpful assistant. ",
    "Think step by step. ",
    "Question: ",
    "Hi! ",
    "hey, quick question - ",
    "Explain in detail: ",
    "Answer briefly. ",
)
CLOSINGS = (" Please explain.", " Thanks!", " Give a short answer.", " Explain your reasoning.", "\nAnswer:", " please")


@dataclass(frozen=True, slots=True)
class Line:
    """One labelled prompt."""

    number: int  # of its line in the file, from 0
    prompt: str
    domain: str
    source: str  # without what follows its slash: "mmlu/law" is mmlu


def read(path: Path) -> list[Line]:
    """Read JSON Lines of `prompt`, `domain` and `source`."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [
        Line(number, record["prompt"], record["domain"], record["source"].partition("/")[0])
        for number, record in enumerate(records)
    ]


def split(lines: Sequence[Line], share: float, seed: int) -> tuple[list[Line], list[Line]]:
    """Hold back a random share: (the others, those held back)."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    kept = set(draw.sample(range(len(lines)), round(share * len(lines))))
    others = [line for at, line in enumerate(lines) if at not in kept]
    return others, [line for at, line in enumerate(lines) if at in kept]


def altered(prompt: str, draw: random.Random) -> str:
    """Return the prompt as another source might have put it: without choices, cut, with words lost, or in a chat."""
    text = prompt
    if draw.random() < 0.5:
        text = CHOICE.sub("", text)
        if not text.strip():
            text = prompt
    words = text.split(" ")
    if len(words) > 8 and draw.random() < 0.2:
        keep = draw.randint(max(5, len(words) // 2), len(words))
        start = draw.randint(0, len(words) - keep)
        words = words[start : start + keep]
    if len(words) > 4 and draw.random() < 0.4:
        lost = draw.uniform(0.02, 0.2)
        words = [word for word in words if draw.random() >= lost] or words
    text = " ".join(words)
    if draw.random() < 0.15:
        text = draw.choice(OPENINGS) + text
    if draw.random() < 0.1:
        text += draw.choice(CLOSINGS)
    return text
