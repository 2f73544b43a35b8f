"""The contract's enums as traces and people see them: one lower-case word."""

from expertmesh.v1.generation_pb2 import FinishReason, RouteReason

_ROUTE = {number: name.removeprefix("ROUTE_REASON_").lower() for name, number in RouteReason.items()}
_FINISH = {number: name.removeprefix("FINISH_REASON_").lower() for name, number in FinishReason.items()}


def reason_word(reason: RouteReason) -> str:
    """Return why a route was chosen, such as `confident`; the number of a reason that a later version added."""
    return _ROUTE.get(reason, str(reason))


def finish_word(reason: FinishReason) -> str:
    """Return why an answer ended: `stop` or `length`; the number of a reason that a later version added."""
    return _FINISH.get(reason, str(reason))
