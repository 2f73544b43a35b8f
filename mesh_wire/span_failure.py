"""How a request or a part of it failed, as its span says."""

from typing import NamedTuple

from mesh_wire.errors import MeshError


class Failure(NamedTuple):
    """How a request or a stage failed."""

    status: str
    kind: str
    message: str | None = None
    is_fault: bool = True  # a caller's leaving is none


LEFT = Failure("CANCELLED", "CANCELLED", is_fault=False)  # the caller


def failure_of(error: BaseException) -> Failure:
    if isinstance(error, MeshError):
        return Failure(error.code.name, error.reason, error.message)
    if isinstance(error, Exception):
        return Failure("INTERNAL", type(error).__qualname__)
    return LEFT  # CancelledError, GeneratorExit
