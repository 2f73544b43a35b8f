"""What the sections of `mesh.yaml` are made of."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeySource(Section):
    """Where a secret is: at least 32 bytes."""

    file: Path | None = None  # white space at its ends is not part of the secret
    env: str | None = None  # the name of an environment variable

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("a key has either `file` or `env`")
        return self
