"""Which prompts are asked: read from a file or built in, drawn evenly or with a skew towards domains."""

import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path

from expertmesh_client.load.problems import BadLoad


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the domain that its label names; empty without a label."""

    text: str
    domain: str = ""


def built_in() -> list[Prompt]:
    """Return the prompts that come with the package."""
    import yaml

    told = yaml.safe_load(files(__package__).joinpath("prompts.yaml").read_text(encoding="utf-8"))
    return [Prompt(text, domain) for domain, texts in told.items() for text in texts]


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from JSON lines with `prompt`, and `domain` where it is known; other keys are ignored.

    Raises:
        BadLoad: the file cannot be read, a line is something else, or there is no prompt.
    """
    try:
        prompts = list(_lines(path))
    except OSError as error:
        raise BadLoad(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadLoad(f"{path}: not UTF-8 text") from None
    if not prompts:
        raise BadLoad(f"{path}: no prompts in it")
    return prompts


def _lines(path: Path) -> Iterator[Prompt]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
            except ValueError:
                raise BadLoad(f"{path}:{number}: not JSON") from None
            text = told.get("prompt") if isinstance(told, dict) else None
            if not isinstance(text, str) or not text:
                raise BadLoad(f'{path}:{number}: no text under "prompt"')
            domain = told.get("domain")
            if domain is not None and not isinstance(domain, str):
                raise BadLoad(f'{path}:{number}: "domain" is not text')
            yield Prompt(text, domain or "")


def read_skew(written: str) -> dict[str, float]:
    """Read shares of domains, such as `math=0.8,law=0.1`.

    Raises:
        BadLoad: it is something else, or more than everything.
    """
    shares: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in written.split(","))):
        domain, _, share = part.partition("=")
        try:
            shares[domain.strip()] = float(share)
        except ValueError:
            raise BadLoad(f"--skew: {part!r} is not DOMAIN=SHARE, such as math=0.8") from None
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise BadLoad(f"--skew: shares lie between 0 and 1 and make at most 1 together, not {written}")
    return shares


class Choice:
    """Draws prompts: those of a skewed domain with its share, all others evenly with what is left."""

    def __init__(self, prompts: Sequence[Prompt], skew: Mapping[str, float]) -> None:
        """Raises BadLoad where the prompts do not have what the skew asks for."""
        groups: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.domain if prompt.domain in skew else "", []).append(prompt)
        if missing := [domain for domain in skew if domain not in groups]:
            known = ", ".join(sorted({prompt.domain for prompt in prompts if prompt.domain}))
            has = f"the domains there are: {known}" if known else "the prompts have no domains"
            raise BadLoad(f"--skew: no prompt is labelled {missing[0]}; {has}")
        rest = 1 - sum(skew.values())
        if rest > 1e-9 and "" not in groups:
            raise BadLoad(f"--skew: {rest:.0%} are left for other domains, and there are no prompts of any")
        shares = {**skew, "": rest}
        self._groups = [group for name, group in groups.items() if shares[name] > 1e-9]
        self._ends = list(accumulate(shares[name] for name in groups if shares[name] > 1e-9))

    def draw(self, chance: random.Random) -> Prompt:
        if len(self._groups) == 1:
            return chance.choice(self._groups[0])
        at = bisect_right(self._ends, chance.random() * self._ends[-1])
        return chance.choice(self._groups[min(at, len(self._groups) - 1)])


def of_length(prompt: Prompt, words: int, chance: random.Random, alike: Sequence[Prompt]) -> Prompt:
    """Return the prompt cut to so many words, or lengthened by others of `alike`, prompts of its own domain."""
    said = prompt.text.split()
    while len(said) < words:
        said += chance.choice(alike).text.split() or ["…"]
    return Prompt(" ".join(said[:words]), prompt.domain)
