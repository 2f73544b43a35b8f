"""A cell's result in the time of its own configuration: what the report is made of. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.characterise.configurations import Configuration

PERCENTILES = ("p50", "p95", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One load on one configuration. Times are simulated seconds where it is simulated, and rates are per such one;
    `stages_s` alone are always this machine's, since router and transport are not simulated."""

    configuration: str
    users: int
    way: str
    complete: bool
    asked: int
    answered: int
    failed: int
    unfinished: int
    tokens_per_s: float
    requests_per_s: float
    first_token_s: Mapping[str, float | None]
    session_s: Mapping[str, float | None]
    inter_token_s: Mapping[str, float | None]
    experts: Mapping[str, int]
    replicas: Mapping[str, int]
    accuracy: float | None  # of routing, by the prompts' labels
    load: Mapping[str, Mapping[str, float]]  # by engine, see `watching`
    stages_s: Mapping[str, Mapping[str, float]]
    late: str = ""  # why the load generator's own lateness spoils it

    def told(self) -> dict[str, Any]:
        return asdict(self)


def row_of(told: Mapping[str, Any]) -> Row:
    """Return the row of a result as `store` keeps it."""
    result, seen, speed = told["result"], told["seen"], told["speed"]

    def scaled(times: Mapping[str, Any]) -> dict[str, float | None]:
        return {share: None if times[share] is None else times[share] * speed for share in PERCENTILES}

    return Row(
        configuration=told["configuration"],
        users=told["users"],
        way=told["way"],
        complete=told["complete"],
        asked=result["asked"],
        answered=result["answered"],
        failed=result["failed"],
        unfinished=result["unfinished"],
        tokens_per_s=result["tokens_per_s"] / speed,
        requests_per_s=result["requests_per_s"] / speed,
        first_token_s=scaled(result["first_token_s"]),
        session_s=scaled(result["session_s"]),
        inter_token_s=scaled(result["inter_token_s"]),
        experts=result["routed"]["experts"],
        replicas=result["routed"]["replicas"],
        accuracy=result["routed"]["accuracy"],
        load=seen["load"],
        stages_s=seen["stages_s"],
        late=result["generator"]["why"],
    )


@dataclass(frozen=True, slots=True)
class Series:
    """A configuration and its rows, from the fewest users to the most."""

    configuration: Configuration
    routed: Sequence[Row] = field(default_factory=tuple)
    direct: Sequence[Row] = field(default_factory=tuple)

    @property
    def users(self) -> list[int]:
        return [row.users for row in self.routed]

    def at(self, users: int) -> Row | None:
        """Return the row of a load, routed."""
        return next((row for row in self.routed if row.users == users), None)


def series_of(configurations: Iterable[Configuration], rows: Iterable[Row]) -> list[Series]:
    """Return each configuration that has any row, in order."""
    ordered = sorted(rows, key=lambda row: row.users)
    found = []
    for configuration in configurations:
        routed, direct = (
            tuple(row for row in ordered if row.configuration == configuration.key and row.way == way)
            for way in ("routed", "direct")
        )
        if routed or direct:
            found.append(Series(configuration, routed, direct))
    return found
