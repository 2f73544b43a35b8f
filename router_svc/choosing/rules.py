"""By what a router decides, and since which reload."""

from dataclasses import dataclass

from router_svc.choosing.decision import Policy


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request is decided by, from its beginning to its end."""

    generation: int  # 1 at the router's start, one more with each reload
    policy: Policy


class Rulebook:
    """The rules that hold now. Whoever decides takes them once for each request."""

    def __init__(self, policy: Policy) -> None:
        self.now = Rules(1, policy)

    def replace(self, policy: Policy) -> None:
        """Begin another generation."""
        self.now = Rules(self.now.generation + 1, policy)
