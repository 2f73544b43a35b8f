"""The grid: which cells there are, how long each takes, and what names its result."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.characterise.configurations import (
    SIMULATED_PROMPT_MEAN,
    Configuration,
)
from benchmarks.characterise.foretelling import foretold
from benchmarks.characterise.profile import load
from benchmarks.report import machine
from expertmesh_client.load.plan import Rung

Way = Literal["routed", "direct"]
LEAST_S = 5.0  # of a window that counts
REAL_WARM_S, REAL_WINDOW_S, REAL_DRAIN_S = 4.0, 12.0, 150.0
SESSIONS_WARM, SESSIONS_COUNTED = 1.0, 1.3
HOP_ANSWERS = 40
START_S = {"real": 60.0, "simulated": 14.0}  # of a mesh


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one configuration."""

    configuration: Configuration
    users: int
    way: Way
    warm_s: float
    last_s: float
    drain_s: float
    id: str  # of all that the result depends on

    @property
    def rung(self) -> Rung:
        return Rung(users=self.users, warm_s=self.warm_s, last_s=self.last_s, drain_s=self.drain_s)

    @property
    def expected_s(self) -> float:
        """Seconds of this machine's that it should take."""
        return self.warm_s + self.last_s + session_s(self.configuration, self.users) + 1.5

    @property
    def words(self) -> str:
        return f"{self.configuration.title}, {self.users} user{'s' * (self.users != 1)}" + (
            ", direct" if self.way == "direct" else ""
        )


def session_s(configuration: Configuration, users: int) -> float:
    """Return about how many of this machine's seconds an answer takes; of real engines nothing is foretold."""
    if configuration.kind == "real":
        return 1.0 + 0.06 * users
    alike = len(configuration.engines)
    found = foretold(
        load(configuration.engines[0].profile).simulation,
        users=-(-users // alike),
        prompt_tokens=SIMULATED_PROMPT_MEAN,
        output_tokens=configuration.output_tokens,
    )
    return found.session_s / configuration.speed


def cells(
    configurations: Sequence[Configuration], ladder: Sequence[int] | None, *, seconds: float | None = None
) -> Iterator[Cell]:
    """Yield the grid's cells, those of a configuration one after the other, from the fewest users to the most.

    Args:
        ladder: in place of each configuration's own.
        seconds: that count in each cell, in place of what suits it.
    """
    versions = machine()
    for configuration in configurations:
        told = configuration.told()
        for users in ladder or configuration.ladder:
            takes_s = session_s(configuration, users)
            warm_s, last_s, drain_s = (
                (REAL_WARM_S + 0.02 * users, REAL_WINDOW_S + 0.1 * users, REAL_DRAIN_S)
                if configuration.kind == "real"
                else (max(1.0, SESSIONS_WARM * takes_s), max(LEAST_S, SESSIONS_COUNTED * takes_s), 3 * takes_s + 10)
            )
            if configuration.role == "hop":  # a difference of milliseconds needs more answers than one user gives soon
                last_s = max(last_s, HOP_ANSWERS / users * takes_s)
            if seconds is not None:
                warm_s, last_s = min(warm_s, seconds), seconds
            warm_s, last_s, drain_s = (round(each, 2) for each in (warm_s, last_s, drain_s))
            ways: tuple[Way, ...] = ("routed", "direct") if configuration.direct else ("routed",)
            for way in ways:
                depends = {
                    "configuration": told,
                    "users": users,
                    "way": way,
                    "timing": [warm_s, last_s, drain_s],
                    "versions": versions["versions"] | {"python": versions["python"]},
                }
                yield Cell(configuration, users, way, warm_s, last_s, drain_s, _digest(depends))


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
