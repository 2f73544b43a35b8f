"""Pairs of prompt and response to train and measure the adapters on, and their split.

Math and health are read from JSON lines (`prompt`, `response`); coding is made here, from the
documented functions of Python's own standard library. No pair is kept in the repository.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DOMAINS = ("math", "coding", "health")
DEFAULT_FINETUNE = Path("../shared/finetune")
UNSEEN_SHARE = 0.1  # of the groups, in [0, 1]; never trained on
SPLIT_SEED = 2404

# Not a library's code, or code written to be odd: tests, generated tables, other people's packages.
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "encodings", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
)
DOCSTRING_CHARS = range(25, 501)
RESPONSE_CHARS = range(60, 1001)


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt and the response that the expert should learn to give.

    `group` is what the split keeps together: the prompt itself, or the module a function is from,
    so that an unseen function has no trained-on sibling of the same class or file.
    """

    prompt: str
    response: str
    group: str


@dataclass(frozen=True, slots=True)
class Split:
    """Pairs to train on and pairs that training never sees; they share no prompt, response or group."""

    train: tuple[Pair, ...]
    unseen: tuple[Pair, ...]


def load_split(domain: str, finetune: Path) -> Split:
    """The split of one of `DOMAINS`; the same wherever the data and Python's version are the same."""
    if domain == "coding":
        return split(coding_pairs(Path(sysconfig.get_path("stdlib"))))
    return split(written_pairs(finetune / f"{domain}.jsonl"))


def split(pairs: Iterable[Pair], *, unseen_share: float = UNSEEN_SHARE, seed: int = SPLIT_SEED) -> Split:
    """Part the pairs by a hash of their group; the pairs' order decides nothing but the order within a part.

    Of pairs with the same prompt, or the same response, but for case and white space, the first is kept.
    """
    train: list[Pair] = []
    unseen: list[Pair] = []
    for pair in without_twins(pairs):
        (unseen if fraction(pair.group, seed) < unseen_share else train).append(pair)
    return Split(tuple(train), tuple(unseen))


def sample(pairs: Sequence[Pair], count: int, *, seed: int = SPLIT_SEED) -> list[Pair]:
    """At most `count` of the pairs: always the same ones, whatever order they come in."""
    return sorted(pairs, key=lambda pair: fraction(pair.prompt, seed + 1))[:count]


def without_twins(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Drop pairs whose prompt or response was there before."""
    prompts: set[str] = set()
    responses: set[str] = set()
    for pair in pairs:
        prompt, response = plain(pair.prompt), plain(pair.response)
        if prompt not in prompts and response not in responses:
            yield pair
        prompts.add(prompt)
        responses.add(response)


def plain(text: str) -> str:
    """Text without the differences that do not make it another text."""
    return " ".join(text.casefold().split())


def fraction(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but text and seed (`hash` would, on the process)."""
    digest = hashlib.sha256(f"{seed}\n{plain(text)}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def written_pairs(path: Path) -> Iterator[Pair]:
    """Read the pairs of a JSON-lines file with `prompt` and `response`."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Pair(prompt=row["prompt"].strip(), response=row["response"].strip(), group=row["prompt"].strip())


def coding_pairs(stdlib: Path) -> Iterator[Pair]:
    """Docstring → function pairs of every module under `stdlib`, in the order of their paths."""
    for path in sorted(stdlib.rglob("*.py")):
        module = path.relative_to(stdlib)
        if SKIPPED_FOLDERS.isdisjoint(module.parts[:-1]):
            try:
                yield from module_pairs(path.read_text(encoding="utf-8"), group=module.as_posix())
            except (SyntaxError, UnicodeDecodeError):
                continue  # a template or a deliberately broken file


def module_pairs(source: str, *, group: str) -> Iterator[Pair]:
    """The pairs of one module's public functions and methods."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        # A private name says little to somebody who has not read the module.
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            response = without_docstring(node, lines)
            if response and len(docstring) in DOCSTRING_CHARS and len(response) in RESPONSE_CHARS:
                yield Pair(prompt=coding_prompt(node, docstring), response=response, group=group)


def without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> str | None:
    """The function's source as written, comments included, but for its docstring and its indentation.

    Returns:
        None when nothing worth learning is left: no body, a stub, or another docstring inside.
    """
    first, *body = node.body
    if not body or first.lineno == node.lineno or body[0].lineno == first.end_lineno:
        return None
    if len(body) == 1 and isinstance(body[0], ast.Pass | ast.Raise):
        return None
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = [*lines[start - 1 : first.lineno - 1], *lines[first.end_lineno or 0 : node.end_lineno]]
    header = first.lineno - start
    while header < len(kept) and not kept[header].strip():
        del kept[header]  # the blank line that set the docstring off
    response = textwrap.dedent("\n".join(line.rstrip() for line in kept))
    try:
        parsed = ast.parse(response)
    except SyntaxError:  # a multi-line string that reaches left of the function
        return None
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if any(isinstance(inner, documented) and ast.get_docstring(inner) for inner in ast.walk(parsed)):
        return None
    return response


def coding_prompt(node: ast.FunctionDef | ast.AsyncFunctionDef, docstring: str) -> str:
    """Ask for the function in one of three ways, chosen by hash, since people ask in more than one."""
    wordings = (
        f"Write a Python function for this description:\n\n{docstring}",
        f"Write the Python function `{node.name}`.\n\n{docstring}",
        f"Implement this in Python: `{node.name}({ast.unparse(node.args)})`\n\n{docstring}",
    )
    return wordings[int(fraction(docstring, SPLIT_SEED) * len(wordings))]


def main() -> None:
    """Show how many pairs there are, and some of them."""
    parser = argparse.ArgumentParser(prog="models/pairs.py", description="Count and show the training pairs.")
    parser.add_argument("--finetune", type=Path, default=DEFAULT_FINETUNE, help="folder of math.jsonl and health.jsonl")
    parser.add_argument("--domain", choices=DOMAINS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N unseen pairs of each domain")
    options = parser.parse_args()
    for domain in options.domain or DOMAINS:
        parts = load_split(domain, options.finetune)
        print(f"{domain}: {len(parts.train)} to train on, {len(parts.unseen)} unseen")
        for pair in sample(parts.unseen, options.show):
            print(f"--- {pair.group}\n{pair.prompt}\n>>>\n{pair.response}")


if __name__ == "__main__":
    main()
