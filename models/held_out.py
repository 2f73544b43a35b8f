"""Pairs that nobody was trained on: neither an adapter nor a router.

The split of `pairs.py` keeps a tenth from the adapters' training, but a router's corpus may hold the same questions.
Here the pairs of the training part that no adapter's run drew are taken as well, and whatever stands in a router's
corpora is left out. Coding has a second source, `packages`: functions of installed packages, where the adapter learned
from Python's standard library alone.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pairs import Pair, load_split, module_pairs, plain, sample, without_twins

# group of pairs → the expert that was trained for it
EXPERT_OF = {"math": "math", "coding": "coding", "packages": "coding", "health": "health"}
# Written in Python, documented in prose, and installed by requirements/cpu.lock.
PACKAGES = ("aiohttp", "fsspec", "joblib", "jsonschema", "mpmath", "networkx", "requests", "rich", "starlette")


def held_out(
    group: str, finetune: Path, *, trained: Sequence[Pair], elsewhere: frozenset[str], count: int
) -> list[Pair]:
    """At most `count` pairs of one of `EXPERT_OF`'s groups: always the same ones.

    Args:
        group: what to read.
        finetune: folder of math.jsonl and health.jsonl.
        trained: what the adapter of that domain was trained on.
        elsewhere: plain prompts that anything else was trained on, or settings were chosen with.
        count: the most to return.
    """
    if group == "packages":
        return sample([pair for pair in without_twins(package_pairs()) if plain(pair.prompt) not in elsewhere], count)
    split = load_split(group, finetune)
    candidates = list(split.unseen)
    if group != "coding":  # a function of a module that was trained on has neighbours there
        seen = {pair.prompt for pair in trained}
        candidates += [pair for pair in split.train if pair.prompt not in seen]
    return sample([pair for pair in candidates if plain(pair.prompt) not in elsewhere], count)


def package_pairs() -> Iterator[Pair]:
    """Docstring → function pairs of the installed `PACKAGES`, their tests excepted."""
    installed = Path(sysconfig.get_path("purelib"))
    for package in PACKAGES:
        for path in sorted((installed / package).rglob("*.py")):
            module = path.relative_to(installed)
            if {"tests", "testing", "_vendor"}.isdisjoint(module.parts):
                try:
                    yield from module_pairs(path.read_text(encoding="utf-8"), group=module.as_posix())
                except (SyntaxError, UnicodeDecodeError):
                    continue  # a sample of another language's text


def prompts_in(corpora: Iterable[Path]) -> frozenset[str]:
    """The plain prompts of JSON-lines files with `prompt`."""
    found = set()
    for path in corpora:
        with path.open(encoding="utf-8") as lines:
            found.update(plain(json.loads(line)["prompt"]) for line in lines)
    return frozenset(found)
