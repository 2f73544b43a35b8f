"""Distributions that a user writes in a few characters: of prompts' and answers' lengths, and of time to think."""

import math
import random
import re
from dataclasses import dataclass
from typing import Self

from expertmesh_client.load.problems import BadLoad

FORMS = "N, N..M (uniform), normal:MEAN,SD, lognormal:MEDIAN,SIGMA or exponential:MEAN"
_NUMBER = r"(\d+(?:\.\d+)?)"
_PATTERNS = {
    "fixed": re.compile(_NUMBER),
    "uniform": re.compile(rf"{_NUMBER}\.\.{_NUMBER}"),
    "normal": re.compile(rf"normal:{_NUMBER},{_NUMBER}"),
    "lognormal": re.compile(rf"lognormal:{_NUMBER},{_NUMBER}"),
    "exponential": re.compile(rf"exponential:{_NUMBER}"),
}


@dataclass(frozen=True, slots=True)
class Distribution:
    """A way to draw a number that is at least 0."""

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, written: str, what: str) -> Self:
        """Read a distribution as FORMS has it.

        Args:
            what: names the option in an error.

        Raises:
            BadLoad: it is none.
        """
        for kind, pattern in _PATTERNS.items():
            if (found := pattern.fullmatch(written.strip())) is not None:
                made = cls(kind, *map(float, found.groups()))
                if kind == "uniform" and made.first > made.second:
                    raise BadLoad(f"{what}: {written} begins above its end")
                if kind == "lognormal" and not made.first:
                    raise BadLoad(f"{what}: a lognormal's median is above 0")
                return made
        raise BadLoad(f"{what}: {written!r} is no distribution; write {FORMS}")

    def draw(self, chance: random.Random) -> float:
        match self.kind:
            case "uniform":
                return chance.uniform(self.first, self.second)
            case "normal":
                return max(0.0, chance.gauss(self.first, self.second))
            case "lognormal":
                return chance.lognormvariate(math.log(self.first), self.second)
            case "exponential":
                return chance.expovariate(1 / self.first) if self.first else 0.0
        return self.first

    def draw_count(self, chance: random.Random) -> int:
        """Draw a whole number of things, at least 1; a uniform one has both its ends."""
        if self.kind == "uniform":
            return max(1, chance.randint(round(self.first), round(self.second)))
        return max(1, round(self.draw(chance)))
