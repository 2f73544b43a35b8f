"""A client of expertmesh: `AsyncClient`, `Client`, what they answer, and the errors they raise.

    with Client("localhost:50050") as client:
        with client.generate("What is 7 times 8?") as answer:
            for piece in answer:
                print(piece, end="", flush=True)
        print(answer.route.expert, answer.finished.usage.completion_tokens)

Names are imported when they are first used, so that the command line can show its help without loading gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expertmesh.v1.generation_pb2 import (
        ChatMessage,
        Delta,
        Finished,
        FinishReason,
        Role,
        RouteChosen,
        RouteReason,
        Sampling,
    )
    from expertmesh.v1.router_pb2 import ListExpertsResponse, RouteResponse
    from expertmesh_client.aio import AsyncClient
    from expertmesh_client.answer import AsyncAnswer, Event
    from expertmesh_client.blocking import Answer, Client
    from mesh_wire.errors import (
        AlreadyExists,
        BadInput,
        Busy,
        DeadlinePassed,
        Forbidden,
        Foreign,
        Internal,
        MeshError,
        NotFound,
        Unauthenticated,
        Unavailable,
        Unsupported,
    )
    from mesh_wire.tls import ClientTls

_HOMES = {
    "expertmesh.v1.generation_pb2": (
        "ChatMessage",
        "Delta",
        "FinishReason",
        "Finished",
        "Role",
        "RouteChosen",
        "RouteReason",
        "Sampling",
    ),
    "expertmesh.v1.router_pb2": ("ListExpertsResponse", "RouteResponse"),
    "expertmesh_client.aio": ("AsyncClient",),
    "expertmesh_client.answer": ("AsyncAnswer", "Event"),
    "expertmesh_client.blocking": ("Answer", "Client"),
    "mesh_wire.errors": (
        "AlreadyExists",
        "BadInput",
        "Busy",
        "DeadlinePassed",
        "Forbidden",
        "Forbidden",
        "Foreign",
        "Internal",
        "MeshError",
        "NotFound",
        "Unauthenticated",
        "Unavailable",
        "Unsupported",
    ),
    "mesh_wire.tls": ("ClientTls",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExists",
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "BadInput",
    "Busy",
    "ChatMessage",
    "Client",
    "ClientTls",
    "DeadlinePassed",
    "Delta",
    "Event",
    "FinishReason",
    "Finished",
    "Forbidden",
    "Foreign",
    "Internal",
    "ListExpertsResponse",
    "MeshError",
    "NotFound",
    "Role",
    "RouteChosen",
    "RouteReason",
    "RouteResponse",
    "Sampling",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
]


def __getattr__(name: str) -> Any:
    if (home := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
