"""From scores and the fleet's state to one replica: a pure function that also says why.

It knows no gRPC and no time.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.deadlines import seconds
from mesh_wire.errors import NotFound, Unavailable

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
    fleet: Sequence[Candidate],
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
    Among an expert's replicas, the one with the least expected wait, as `order` has it.

    Args:
        scores: probability of each domain; empty when the prompt could not be read. What no expert of the fleet
            serves counts as the generalist's.
        pinned: the expert that the caller named; empty if none.
        excluded: endpoints that failed this request already.
        chance: a random number in [0, 1), where other routers may choose at the same moment; None: they do not.

    Raises:
        NotFound: nobody in the fleet serves the named expert.
        Unavailable: no replica that could answer is up.
    """
    up = [candidate for candidate in fleet if candidate.serving and candidate.endpoint not in excluded]
    if pinned:
        known = sorted({name for candidate in fleet for name in candidate.experts})
        if pinned not in known:
            raise NotFound(
                f"no expert is called {pinned}",
                reason="EXPERT_UNKNOWN",
                field="expert",
                expert=pinned,
                known=", ".join(known),
            )
        return _decide(pinned, scores, up, chance, RouteReason.ROUTE_REASON_PINNED, "the caller named it")
    shares = fold(scores, {name for candidate in fleet for name in candidate.experts}, policy.generalist)
    best = max(shares, key=lambda name: (shares[name], name == policy.generalist, name), default="")
    if not best:
        return _decide(
            policy.generalist,
            shares,
            up,
            chance,
            RouteReason.ROUTE_REASON_UNSURE,
            "there is no text that a router can read",
        )
    likeliest = max(scores, key=lambda name: (scores[name], name))
    says = f"scored best with {shares[best]:.2f}"
    if not any(best in candidate.experts for candidate in up):
        reason, why = RouteReason.ROUTE_REASON_UNSERVED, f"{best} {says} and is down"
    elif shares[best] < policy.threshold:
        reason, why = RouteReason.ROUTE_REASON_UNSURE, f"{best} {says}, below {policy.threshold:g}"
    elif best == policy.generalist and likeliest not in shares:
        why = f"nobody serves {likeliest}, which scored best with {scores[likeliest]:.2f}"
        reason = RouteReason.ROUTE_REASON_UNSERVED
    else:
        return _decide(best, shares, up, chance, RouteReason.ROUTE_REASON_CONFIDENT, f"it {says}")
    answering = policy.generalist
    if not any(answering in candidate.experts for candidate in up):
        able = {name for candidate in up for name in candidate.experts} & shares.keys()
        answering = max(able, key=lambda name: (shares[name], name), default=policy.generalist)
        reason, why = RouteReason.ROUTE_REASON_UNSERVED, f"{why}, and {policy.generalist} is down"
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


def order(candidates: Collection[Candidate], chance: float | None) -> list[Candidate]:
    """Return replicas by their expected wait; where there is chance, the better of two near the best comes first.

    Routers that see the same loads, a moment old, would all choose the same replica until they are told better. Two
    choices spread them nearly as evenly as full knowledge would, and cost a router that is alone next to nothing.

    Source:
        Mitzenmacher, The power of two choices in randomized load balancing, 2001; with old information: How useful is
        old information?, 2000.
    """
    waits = {each.endpoint: (expected_wait_s(each), each.outstanding, each.endpoint) for each in candidates}
    rising = sorted(candidates, key=lambda each: waits[each.endpoint])
    if chance is None or len(rising) < 2:
        return rising
    near = [each for each in rising if waits[each.endpoint][0] <= NEAR * waits[rising[0].endpoint][0]]
    first, rest = divmod(chance * len(near), 1)
    one = near.pop(int(first))
    other = near[int(rest * len(near))] if near else one
    best = other if waits[other.endpoint][:2] < waits[one.endpoint][:2] else one
    return [best, *(each for each in rising if each is not best)]


def _decide(
    expert: str,
    scores: Mapping[str, float],
    up: Sequence[Candidate],
    chance: float | None,
    reason: RouteReason,
    why: str,
) -> Decision:
    able = order([candidate for candidate in up if expert in candidate.experts], chance)
    if not able:
        raise Unavailable(f"no replica of {expert} is up", reason="NO_EXPERT", expert=expert, tokens_sent="0")
    return Decision(expert=expert, score=scores.get(expert, 0.0), reason=reason, explanation=why, weighed=tuple(able))
