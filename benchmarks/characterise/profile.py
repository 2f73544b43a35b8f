"""Profiles of engines on hardware that is not here: constants of a simulation, and the measurements they come from."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from mesh_wire.settings import Simulation

FOLDER = Path(__file__).parent / "profiles"
Positive = Annotated[float, Field(gt=0)]


class Point(BaseModel):
    """One published measurement: a closed loop of users on one engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int
    output_tokens: int
    users: int
    tokens_per_s: float  # of output
    first_token_ms: float  # mean

    @classmethod
    def of_row(cls, row: list[float]) -> "Point":
        """Read a line of a profile's table: the fields in the order above."""
        return cls.model_validate(dict(zip(cls.model_fields, row, strict=True)))


class Source(BaseModel):
    """Where points were published, and what exactly was taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    address: str
    taken: str


class Profile(BaseModel):
    """One model on so many GPUs. A file of this shape stands under `profiles/`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    kind: Literal["measured", "derived"]  # whether its constants were fitted to points of this very configuration
    model: str
    precision: str
    gpus: int
    weights_gb: float  # of all GPUs together, 1 GB being 1e9 bytes
    kv_bytes_per_token: int
    sources: tuple[Source, ...]
    derivation: str  # how the constants come from the points
    constants: dict[str, Any]  # fields of `Simulation`, times in simulated seconds
    tokens_per_s_error: Positive | None = None  # stated error of tokens per second, relative, at every point
    first_token_error: Positive | None = None  # of the time to first token of one user alone
    points: tuple[Point, ...] = ()

    @property
    def simulation(self) -> Simulation:
        return Simulation.model_validate(self.constants)


def load(name: str) -> Profile:
    """Return the profile of a name, its file's without `.yaml`."""
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    told["points"] = [Point.of_row(row) for row in told.pop("points", ())]
    return Profile.model_validate(told)


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
