"""From scores and the fleet's state to one replica: a pure function that also says why.

It knows no gRPC and no time.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.deadlines import seconds
from mesh_wire.errors import NotFound, Unavailable

# Read once: the generated type looks each name up anew.
PINNED, UNSURE = RouteReason.ROUTE_REASON_PINNED, RouteReason.ROUTE_REASON_UNSURE
UNSERVED, CONFIDENT = RouteReason.ROUTE_REASON_UNSERVED, RouteReason.ROUTE_REASON_CONFIDENT
UNMEASURED_STEP_S = 0.025  # the step time assumed of an engine that has made none yet
NEAR = 1.5  # replicas whose expected wait is at most so many times the least are as good as the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One replica as the router knows it."""

    replica: str  # the name it gives itself
    endpoint: str  # host:port
    experts: frozenset[str]
    serving: bool
    load: Load
    outstanding: int = 0  # requests that this router has under way there
    untold: int = 0  # what this router's own share has grown by since the load was told; negative: shrunk
    max_running: int = 1  # sequences that its engine runs at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to decide."""

    generalist: str
    threshold: float  # in [0, 1]: a best score below it means unsure


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who answers, and why."""

    expert: str
    score: float
    reason: RouteReason
    explanation: str
    weighed: tuple[Candidate, ...]  # the expert's replicas that serve, the chosen one first

    @property
    def chosen(self) -> Candidate:
        return self.weighed[0]


def select(
    scores: Mapping[str, float],
    fleet: "Sequence[Candidate] | Roster",
    policy: Policy,
    *,
    pinned: str = "",
    excluded: Collection[str] = (),
    chance: float | None = None,
) -> Decision:
    """Choose a replica for one prompt.

    Cases, in order:
      1. The caller named an expert: it answers.
      2. The best domain has no expert in the fleet, or none that is up: the generalist answers.
      3. The best score is below the threshold: the generalist answers.
      4. Otherwise the best expert answers.
    Where the generalist is wanted and is not up, the best expert that is up answers.
    Among an expert's replicas, the one with the least expected wait, as `Roster.able` has it.

    Args:
        scores: probability of each domain; empty when the prompt could not be read. What no expert of the fleet
            serves counts as the generalist's.
        fleet: all replicas; as a `Roster` where many decisions follow each other.
        pinned: the expert that the caller named; empty if none.
        excluded: endpoints that failed this request already.
        chance: a random number in [0, 1), where other routers may choose at the same moment; None: they do not.

    Raises:
        NotFound: nobody in the fleet serves the named expert.
        Unavailable: no replica that could answer is up.
    """
    if isinstance(fleet, Roster):
        up = Roster(fleet.fleet, excluded) if excluded else fleet
    else:
        up = Roster(fleet, excluded)
    if pinned:
        if pinned not in up.served:
            raise NotFound(
                f"no expert is called {pinned}",
                reason="EXPERT_UNKNOWN",
                field="expert",
                expert=pinned,
                known=", ".join(sorted(up.served)),
            )
        return _decide(pinned, scores, up, chance, PINNED, "the caller named it")
    shares = fold(scores, up.served, policy.generalist)
    best = max(shares, key=lambda name: (shares[name], name == policy.generalist, name), default="")
    if not best:
        return _decide(
            policy.generalist,
            shares,
            up,
            chance,
            UNSURE,
            "there is no text that a router can read",
        )
    likeliest = max(scores, key=lambda name: (scores[name], name))
    says = f"scored best with {shares[best]:.2f}"
    if best not in up.up:
        reason, why = UNSERVED, f"{best} {says} and is down"
    elif shares[best] < policy.threshold:
        reason, why = UNSURE, f"{best} {says}, below {policy.threshold:g}"
    elif best == policy.generalist and likeliest not in shares:
        why = f"nobody serves {likeliest}, which scored best with {scores[likeliest]:.2f}"
        reason = UNSERVED
    else:
        return _decide(best, shares, up, chance, CONFIDENT, f"it {says}")
    answering = policy.generalist
    if answering not in up.up:
        able = up.up & shares.keys()
        answering = max(able, key=lambda name: (shares[name], name), default=policy.generalist)
        reason, why = UNSERVED, f"{why}, and {policy.generalist} is down"
    return _decide(answering, shares, up, chance, reason, why)


def fold(scores: Mapping[str, float], served: Collection[str], generalist: str) -> dict[str, float]:
    """Turn probabilities of domains into probabilities of the fleet's experts: what nobody serves is the generalist's.

    Returns:
        A probability for each domain that is served, and for the generalist; empty if `scores` is.
    """
    if not scores:
        return {}
    shares = {name: score for name, score in scores.items() if name in served or name == generalist}
    rest = sum(score for name, score in scores.items() if name not in shares)
    shares[generalist] = shares.get(generalist, 0.0) + rest
    return shares


def expected_wait_s(candidate: Candidate) -> float:
    """Estimate the wait for a first token, in seconds.

    An engine with a free place starts in its next step; one that is full must first finish as many requests as wait.
    The engine's report counts everybody's requests, but may be older than what this router has begun and ended since,
    which is therefore added. It may also have left before this router's last requests arrived: there are never fewer
    than its own.
    """
    load = candidate.load
    step_s = seconds(load.step_time) if load.HasField("step_time") else UNMEASURED_STEP_S
    held = max(load.running + load.waiting + candidate.untold, candidate.outstanding)
    crowding = held / max(1, candidate.max_running)
    queue = max(0, held - candidate.max_running)
    return step_s * (1 + crowding + queue)


class Roster:
    """A fleet prepared for many decisions: who is up for which expert, the least expected wait first."""

    def __init__(self, fleet: Sequence[Candidate], excluded: Collection[str] = ()) -> None:
        self.fleet = fleet
        self.served = frozenset().union(*(candidate.experts for candidate in fleet))
        self._up: dict[str, dict[str, Candidate]] = {}  # expert -> endpoint -> replica
        self._rising: dict[str, tuple[list[float], list[Candidate]]] = {}  # expert -> waits and replicas
        for candidate in fleet:
            if candidate.serving and candidate.endpoint not in excluded:
                for expert in candidate.experts:
                    self._up.setdefault(expert, {})[candidate.endpoint] = candidate

    @property
    def up(self) -> Set[str]:
        """The experts that have a replica which is up."""
        return self._up.keys()

    def replace(self, candidate: Candidate) -> None:
        """Take note of a replica's new counts."""
        for expert in candidate.experts:
            if candidate.endpoint in self._up.get(expert, ()):
                self._up[expert][candidate.endpoint] = candidate
                self._rising.pop(expert, None)

    def able(self, expert: str, chance: float | None) -> list[Candidate]:
        """Return an expert's replicas by their expected wait; with chance, the better of two near the best is first.

        Routers that see the same loads, a moment old, would all choose the same replica until they are told better.
        Two choices spread them nearly as evenly as full knowledge would, and cost a router that is alone next to
        nothing.

        Source:
            Mitzenmacher, The power of two choices in randomized load balancing, 2001; with old information: How useful
            is old information?, 2000.
        """
        if (found := self._rising.get(expert)) is None:
            keys = [
                (expected_wait_s(each), each.outstanding, each.endpoint) for each in self._up.get(expert, {}).values()
            ]
            keys.sort()
            found = [wait_s for wait_s, _, _ in keys], [self._up[expert][endpoint] for _, _, endpoint in keys]
            self._rising[expert] = found
        waits, rising = found
        if chance is None or len(rising) < 2:
            return rising
        near = bisect_right(waits, NEAR * waits[0])
        first, rest = divmod(chance * near, 1)
        one = other = int(first)
        if near > 1:
            other = int(rest * (near - 1))
            other += other >= one  # the one is not drawn again
        best = min(one, other, key=lambda at: (waits[at], rising[at].outstanding, at == other))
        return [rising[best], *rising[:best], *rising[best + 1 :]]


def _decide(
    expert: str,
    scores: Mapping[str, float],
    up: Roster,
    chance: float | None,
    reason: RouteReason,
    why: str,
) -> Decision:
    able = up.able(expert, chance)
    if not able:
        raise Unavailable(f"no replica of {expert} is up", reason="NO_EXPERT", expert=expert, tokens_sent="0")
    return Decision(expert=expert, score=scores.get(expert, 0.0), reason=reason, explanation=why, weighed=tuple(able))
