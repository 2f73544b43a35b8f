"""The contract's enums as traces and people see them: one lower-case word."""

from expertmesh.v1.generation_pb2 import Affinity, FinishReason, RouteReason

_ROUTE = {number: name.removeprefix("ROUTE_REASON_").lower() for name, number in RouteReason.items()}
_AFFINITY = {number: name.removeprefix("AFFINITY_").lower() for name, number in Affinity.items()}
_FINISH = {number: name.removeprefix("FINISH_REASON_").lower() for name, number in FinishReason.items()}


def reason_word(reason: RouteReason) -> str:
    """Return why a route was chosen, such as `confident`; the number of a reason that a later version added."""
    return _ROUTE.get(reason, str(reason))


def finish_word(reason: FinishReason) -> str:
    """Return why an answer ended: `stop` or `length`; the number of a reason that a later version added."""
    return _FINISH.get(reason, str(reason))


def affinity_word(affinity: Affinity) -> str:
    """Return what became of a conversation's own replica: `kept` or `given_up`; the number of a later version's."""
    return _AFFINITY.get(affinity, str(affinity))
