"""Labelled prompts from JSON Lines files, as `fit` and `evaluate` read them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class CorpusError(ValueError):
    """A file that cannot be used as a corpus. The message is one line: the file, the line, the problem."""


@dataclass(frozen=True, slots=True)
class LabelledPrompt:
    """One line of a corpus."""

    prompt: str  # not blank
    domain: str | None  # the expert that should answer; None: nobody said
    source: str  # where it comes from, such as "mmlu/law"; empty: nobody said


def read_prompts(path: Path) -> list[LabelledPrompt]:
    """Read a corpus: one JSON object a line with `prompt` and, where known, `domain` and `source`.

    Raises:
        CorpusError: the file cannot be read, a line is not such an object, or no line is.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            prompts = list(_parsed(path, lines))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{path}: is not UTF-8 text") from None
    if not prompts:
        raise CorpusError(f"{path}: holds no prompts")
    return prompts


def _parsed(path: Path, lines: Iterator[str]) -> Iterator[LabelledPrompt]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise CorpusError(f"{path}, line {number}: is not valid JSON") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, line {number}: is not a JSON object")
        prompt, domain, source = record.get("prompt"), record.get("domain"), record.get("source")
        if not isinstance(prompt, str) or not prompt.strip():
            raise CorpusError(f"{path}, line {number}: has no text under 'prompt'")
        if not (domain is None or (isinstance(domain, str) and domain.strip())):
            raise CorpusError(f"{path}, line {number}: 'domain' is not a text")
        yield LabelledPrompt(prompt, domain, source if isinstance(source, str) else "")
