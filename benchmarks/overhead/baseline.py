"""The recorded baselines: what each hop cost, in units of the reference that ran beside it; one for each processor.

The reference takes out how fast a machine is, and how busy, but not that one kind of processor is good at other things
than the next.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.overhead.judging import interval
from benchmarks.overhead.rounds import FIGURES, Round, cost, share

FOLDER = Path(__file__).with_name("baselines")


class NoBaseline(Exception):
    """There is no baseline that can be used."""


def file_of(processor: str) -> Path:
    """Return where the baseline of a kind of processor is recorded."""
    return FOLDER / f"{'-'.join(re.findall('[a-z0-9]+', processor.lower())) or 'unknown'}.json"


class Figure(BaseModel):
    """One hop of one way: medians over rounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cost: float  # CPU per token, in units of the reference
    low: float  # where the median may lie, as far as that run could tell
    high: float
    share: float  # of the CPU of all hops of the way

    @classmethod
    def of(cls, rounds: Sequence[Round], way: str, hop: str) -> Self:
        costs = [cost(one, way, hop) for one in rounds]
        low, high = interval(costs)
        return cls(cost=median(costs), low=low, high=high, share=median(share(one, way, hop) for one in rounds))


class Baseline(BaseModel):
    """All figures, and what they were recorded on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recorded: str  # the day, by UTC
    rounds: int
    unit_us: float  # CPU that a step of the reference took then: turns costs into microseconds for readers
    machine: dict[str, Any]
    figures: dict[str, dict[str, Figure]]  # way -> hop

    @classmethod
    def of(cls, rounds: Sequence[Round], machine: dict[str, Any]) -> Self:
        return cls(
            recorded=datetime.now(UTC).date().isoformat(),
            rounds=len(rounds),
            unit_us=1e6 * median(wave.unit_s for one in rounds for wave in one.values()),
            machine=machine,
            figures={way: {hop: Figure.of(rounds, way, hop) for hop in hops} for way, hops in FIGURES.items()},
        )

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a baseline.

        Raises:
            NoBaseline: it cannot be read, or its ways and hops are not those that are measured.
        """
        try:
            found = cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise NoBaseline(f"{file} cannot be read: {error}; --record makes it") from None
        if {way: set(hops) for way, hops in found.figures.items()} != {way: set(hops) for way, hops in FIGURES.items()}:
            raise NoBaseline(f"{file} has other ways or hops than are measured; --record makes it anew")
        return found

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
