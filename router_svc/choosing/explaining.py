"""Decisions as callers, traces and people see them."""

from collections.abc import Mapping

from expertmesh.v1.generation_pb2 import ExpertScore, RouteChosen
from expertmesh.v1.router_pb2 import RouteResponse
from mesh_wire.words import affinity_word, reason_word
from router_svc.choosing.candidate import Candidate
from router_svc.choosing.decision import GIVEN_UP, Case, Decision, Policy, Wish
from router_svc.choosing.grounds import grounds_of, weighed
from router_svc.choosing.options import options_of
from router_svc.choosing.roster import Roster
from router_svc.choosing.rules import Rules
from router_svc.choosing.selection import likeliest
from router_svc.classifying.classification import Scored

RUNNERS_UP = 5


UNSCORED = Scored({}, "", "", "", "", 0.0)  # nobody was asked: the expert was named, or nothing could be read


def ranked(scores: Mapping[str, float]) -> list[ExpertScore]:
    """Return scores in falling order."""
    falling = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    return [ExpertScore(expert=expert, score=score) for expert, score in falling]


def lean(decision: Decision, scored: Scored, generation: int, attempt: int, chosen: RouteChosen) -> None:
    """Fill in who answers, and by which rule."""
    # Field by field, in its place: a message that is made and put into another is copied, at twice the price.
    chosen.expert = decision.expert
    chosen.replica = decision.chosen.replica
    chosen.score = decision.score
    chosen.strategy = scored.strategy
    chosen.reason = decision.reason
    chosen.attempt = attempt
    chosen.generation = generation
    if decision.variant:
        chosen.variant = decision.variant
    if decision.spilled_from_s is not None:
        chosen.spilled_from = decision.best
    if decision.affinity:
        chosen.affinity = decision.affinity


def chosen_of(decision: Decision, scored: Scored, rules: Rules, attempt: int) -> RouteChosen:
    """Return who answers, and why."""
    chosen = RouteChosen()
    lean(decision, scored, rules.generation, attempt, chosen)
    chosen.runners_up.extend([one for one in ranked(scored.scores) if one.expert != decision.expert][:RUNNERS_UP])
    chosen.artefact = scored.generation
    chosen.explanation = words_of(decision, scored.scores, rules.policy)
    chosen.fallback = scored.fallback
    return chosen


def labels_of(decision: Decision) -> dict[str, str]:
    """Return a decision as spans and metrics have it."""
    labels = {"expertmesh.expert": decision.expert, "expertmesh.reason": reason_word(decision.reason)}
    if decision.variant:
        labels["expertmesh.variant"] = decision.variant
    if decision.spilled_from_s is not None:
        labels["expertmesh.spilled_from"] = decision.best
    if decision.affinity:
        labels["expertmesh.affinity"] = affinity_word(decision.affinity)
    return labels


def explained(
    decision: Decision, chosen: RouteChosen, scores: Mapping[str, float], roster: Roster, policy: Policy, wish: Wish
) -> RouteResponse:
    """Return a decision with all its grounds, as long as the roster is what it was."""
    falling = ranked(scores)
    return RouteResponse(
        route=chosen,
        endpoint=decision.chosen.endpoint,
        scores=falling,
        threshold=policy.threshold,
        margin=falling[0].score - falling[1].score if len(falling) > 1 else 0.0,
        replicas=[weighed(candidate, policy, wish.now) for candidate in _weighed(decision, roster, wish)],
        options=options_of(decision, scores, roster, policy, wish),
        grounds=grounds_of(roster, policy, wish),
    )


def _weighed(decision: Decision, roster: Roster, wish: Wish) -> list[Candidate]:
    """Return the replicas that could have answered in the chosen one's place, the chosen one first."""
    shelves = roster.lower if decision.variant else roster.full
    others = [entry[3] for entry in shelves[decision.expert].without(wish.excluded).rising]
    return [decision.chosen, *(each for each in others if each.endpoint != decision.chosen.endpoint)]


def words_of(decision: Decision, scores: Mapping[str, float], policy: Policy) -> str:
    """Return the rule that decided, in words."""
    said = [_case_in_words(decision, scores, policy)]
    if decision.spilled_from_s is not None:
        said.append(
            f"{decision.best} would wait {_ms(decision.spilled_from_s)}, {decision.expert} {_ms(decision.wait_s)}"
        )
    if decision.variant:
        said.append(f"{decision.variant} answers, since {_why_the_twin(decision)}")
    if decision.affinity == GIVEN_UP:
        said.append("the conversation's own replica is too busy")
    return "; ".join(said)


def _case_in_words(decision: Decision, scores: Mapping[str, float], policy: Policy) -> str:
    best = f"{decision.best} scored best with {decision.best_score:.2f}"
    match decision.case:
        case Case.NAMED:
            return "the caller named it"
        case Case.UNREAD:
            said = "there is no text that a router can read"
        case Case.NO_PROBABILITIES:
            said = "the scores are no probabilities"
        case Case.DOWN:
            said = f"{best} and is down"
        case Case.UNKNOWN:
            domain = likeliest(scores)
            said = f"nobody serves {domain}, which scored best with {scores[domain]:.2f}"
        case Case.FORBIDDEN:
            domain = likeliest(scores)
            said = f"{domain} scored best with {scores[domain]:.2f} and is not for this caller"
        case Case.DOUBTFUL:
            said = f"{best}, below {policy.threshold:g}"
        case Case.CLEAR if decision.spilled_from_s is None:
            return f"it scored best with {decision.best_score:.2f}"
        case Case.CLEAR:
            return f"{best}, {decision.expert} {decision.score:.2f}"
    generalist = decision.generalist or policy.generalist
    return said if decision.expert == generalist else f"{said}, and {generalist} is down"


def _why_the_twin(decision: Decision) -> str:
    if decision.full_s is None:
        return f"no replica of {decision.expert} itself may answer"
    return f"{decision.expert} itself would wait {_ms(decision.full_s)}, its twin {_ms(decision.wait_s)}"


def _ms(wait_s: float) -> str:
    return f"{wait_s * 1000:.0f} ms"
