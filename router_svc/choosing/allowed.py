"""The fleet of a caller that may not ask everybody: whom it may not ask is as if nobody served it."""

from collections.abc import Collection, Mapping

from mesh_wire.errors import Unavailable
from router_svc.choosing.roster import Roster


def narrowed(
    allowed: Collection[str], scores: Mapping[str, float], roster: Roster, generalist: str
) -> tuple[Collection[str], str]:
    """Return the experts that count as served, and who stands in where nobody clearly should answer.

    That is the generalist, or, where the caller may not ask it, whoever scored best of those that are up.

    Raises:
        Unavailable: the fleet has none of the experts that the caller may ask.
    """
    served = [name for name in roster.served if name in allowed]
    if generalist in allowed:
        return served, generalist
    if not served:
        raise Unavailable("nobody serves an expert that this caller may ask", reason="NO_EXPERT", tokens_sent="0")
    up = [name for name in served if name in roster.full or name in roster.lower]
    return served, max(up or served, key=lambda name: (scores.get(name, 0.0), name))
