"""Prompts as people type them, with a domain each: our own, for fitting routers beside benchmark questions.

    python models/everyday.py > build/everyday.jsonl

In benchmark corpora, examinations and abstracts are health or law, and whatever is short and chatty is general: a
router that learns from them alone takes "my knee hurts" for small talk. Here, the same ways of asking are put around
the subjects of all domains, so that they say nothing of a domain, and the subjects all. Subjects, ways of asking and
slips of the fingers, all out of `everyday.yaml`, are drawn with a fixed seed: the same file comes out each time.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

EACH = 600  # prompts of a domain
ASKED_ABOUT = 0.5  # share made of a subject and a way of asking; the others are sentences of their domain
SEED = 4
MATERIAL = Path(__file__).with_suffix(".yaml")


@cache
def material() -> Mapping[str, Any]:
    """Return what is in `everyday.yaml`, its lists as lists."""

    def lists(node: Any) -> Any:
        return {key: lists(each) for key, each in node.items()} if isinstance(node, dict) else listed(node)

    found: Mapping[str, Any] = lists(yaml.safe_load(MATERIAL.read_text(encoding="utf-8")))
    return found


def listed(text: str) -> list[str]:
    """Return what stands between bars and line breaks."""
    return [part.strip() for part in text.replace("\n", "|").split("|") if part.strip()]


def made(domain: str, draw: random.Random) -> str:
    """Return one prompt of a domain."""
    if draw.random() < ASKED_ABOUT:
        way = draw.choice(material()["ways"])
        for subject in draw.sample(material()["subjects"][domain], way.count("{}")):
            way = way.replace("{}", subject, 1)
        return typed(way, draw)
    parts = material()["parts"]
    text = draw.choice(material()["sentences"][domain])
    while (start := text.find("[")) >= 0 and (name := text[start + 1 : text.index("]", start)]) in parts:
        text = text.replace(f"[{name}]", draw.choice(parts[name]), 1)
    while "#" in text and "c#" not in text:
        text = text.replace("#", str(draw.choice((draw.randint(2, 12), draw.randint(10, 99), draw.randint(2, 999)))), 1)
    return typed(text, draw)


def typed(text: str, draw: random.Random) -> str:
    """Return a text as someone types it: with or without capitals and a stop, now and then with a slip."""
    if draw.random() < 0.3:
        text = text[:1].upper() + text[1:]
        text += "" if text[-1] in ".?!" else draw.choice(("", "?", "."))
    if len(text) > 12 and draw.random() < 0.15:
        at = draw.randrange(1, len(text) - 2)
        slip = draw.choice((text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1]))
        text = text[:at] + slip + text[at + 2 :]
    return text


def prompts(each: int = EACH, seed: int = SEED) -> Iterator[dict[str, str]]:
    """Yield so many prompts of every domain, no two alike, with `prompt`, `domain` and `source`."""
    for domain in sorted(material()["subjects"]):
        draw = random.Random(f"{seed}/{domain}")  # noqa: S311 - reproducible, not secret
        seen: set[str] = set()
        while len(seen) < each:
            text = made(domain, draw)
            if text not in seen:
                seen.add(text)
                yield {"prompt": text, "domain": domain, "source": f"everyday/{domain}"}


def main() -> int:
    """Print them, a JSON object a line."""
    for prompt in prompts():
        print(json.dumps(prompt))
    return 0


if __name__ == "__main__":
    sys.exit(main())
