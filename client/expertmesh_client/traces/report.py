"""Where the time of many answers went: percentiles by hop, and what they come to. Pure functions.

Shares are of all the answers' time together, so that they add up; percentiles are over answers, and do not.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from expertmesh_client.traces.hops import COMPUTE, DECISION, DELIVERY, OTHERWISE, TRANSIT, WAITING, gaps, hops, place
from expertmesh_client.traces.oddities import Oddity, oddities
from expertmesh_client.traces.running import NOT_ENDED
from expertmesh_client.traces.trace import About, Trace, about, lacks

UNEXPLAINED_LIMIT = 0.02  # of the whole: above it, spans are missing from the services themselves
SIZES = (32, 128, 512, 2048, 8192)  # tokens of prompt and answer together


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that was answered."""

    trace_id: str
    at_ns: int
    whole_s: float
    about: About
    hops: dict[str, float]  # seconds; they add up to `whole_s`
    gaps: dict[str, float]  # seconds; see `hops.gaps`
    clock_trouble: bool  # a span is longer than what it happened in, or runs backwards: a hop was cut to fit


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity over answers, in seconds."""

    p50: float
    p95: float
    p99: float
    share: float = 0.0  # of the whole, where it is a part of it
    count: int = 0  # answers that have it


@dataclass(frozen=True, slots=True)
class Report:
    """What many answers come to. Parts that no answer has are None."""

    answers: int
    whole: Spread
    hops: dict[str, Spread]
    decision: Spread
    transit: Spread  # between processes, and from the engine's last token to the end that leaves
    queue: Spread  # until the engine took it up, and for a place in its batch
    compute: Spread
    unexplained: Spread
    unexplained_at: dict[str, float]  # where it lies → share of the whole, largest first
    first_token: Spread | None
    between_tokens: Spread | None  # the engine's time from one token to the next
    relay_per_token: Spread | None  # what neither decided nor ran an engine, over the answer's tokens
    from_ns: int
    to_ns: int
    clock_trouble: int  # answers

    @property
    def explained(self) -> bool:
        return self.unexplained.share <= UNEXPLAINED_LIMIT


@dataclass
class Sorted:
    """Answers, and how many traces were none, by the reason why."""

    answers: list[Answer] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def sort_out(traces: Iterable[Trace]) -> Sorted:
    """Tell the traces whose hops can be summed up from the others."""
    found = Sorted()
    for trace in traces:
        request = trace.request
        if request is None:
            not_ended = any(root.span.name == NOT_ENDED for root in trace.roots)
            found.left_out["not ended" if not_ended else "without an answer in them"] += 1
            continue
        said = about(request)
        if said.status == "CANCELLED":
            found.left_out["cancelled"] += 1
        elif said.status != "OK" or request.span.failed:
            found.left_out[f"failed ({said.error or said.status})"] += 1
        elif lacks(trace):
            found.left_out["incomplete"] += 1
        else:
            odd = {one.what for one in oddities([request]).values()}
            trouble = bool(odd & {Oddity.LONGER, Oddity.BACKWARDS})
            start_ns, whole_s = request.span.start_ns, request.span.seconds
            found.answers.append(Answer(trace.trace_id, start_ns, whole_s, said, hops(request), gaps(request), trouble))
    return found


def report(answers: Sequence[Answer]) -> Report:
    """Sum answers up; there must be at least one."""
    whole_s = sum(answer.whole_s for answer in answers) or 1e-9

    def part(of: Callable[[Answer], float | None], *, shared: bool = True) -> Spread:
        values = [value for answer in answers if (value := of(answer)) is not None]
        return _spread(values, sum(values) / whole_s if shared else 0.0)

    def extra(of: Callable[[Answer], float | None]) -> Spread | None:
        found = part(of, shared=False)
        return found if found.count else None

    named = sorted({hop for answer in answers for hop in answer.hops}, key=place)
    at: Counter[str] = Counter()
    for answer in answers:
        at.update(answer.gaps)
    return Report(
        answers=len(answers),
        whole=part(lambda answer: answer.whole_s),
        hops={hop: part(lambda answer, hop=hop: answer.hops.get(hop)) for hop in named},  # type: ignore[misc]  # bound
        decision=part(lambda answer: _sum(answer, lambda hop: hop in DECISION)),
        transit=part(lambda answer: _sum(answer, _on_the_way)),
        queue=part(lambda answer: _sum(answer, lambda hop: hop in WAITING)),
        compute=part(lambda answer: _sum(answer, lambda hop: hop in COMPUTE)),
        unexplained=part(lambda answer: _sum(answer, lambda hop: hop.endswith(OTHERWISE))),
        unexplained_at={label: seconds / whole_s for label, seconds in at.most_common()},
        first_token=extra(lambda answer: answer.about.first_token_s),
        between_tokens=extra(_between_tokens),
        relay_per_token=extra(_relay_per_token),
        from_ns=min(answer.at_ns for answer in answers),
        to_ns=max(answer.at_ns for answer in answers),
        clock_trouble=sum(answer.clock_trouble for answer in answers),
    )


def grouped(answers: Iterable[Answer], by: str) -> dict[str, list[Answer]]:
    """Return answers by `expert`, by `reason`, or by `size`; groups by name, sizes from the smallest."""
    groups: dict[tuple[int, str], list[Answer]] = {}
    for answer in answers:
        match by:
            case "expert":
                key = (0, answer.about.expert or "?")
            case "reason":
                key = (0, answer.about.reason or "?")
            case _:
                key = _size(answer.about)
        groups.setdefault(key, []).append(answer)
    return {label: groups[at, label] for at, label in sorted(groups)}


def quantile(ordered: Sequence[float], at: float) -> float:
    """Return a quantile of values in order, between two of them by their distance (Hyndman and Fan's type 7)."""
    place_ = at * (len(ordered) - 1)
    below = int(place_)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place_ - below) * (ordered[above] - ordered[below])


def _spread(values: Sequence[float], share: float) -> Spread:
    if not values:
        return Spread(0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p95, p99 = (quantile(ordered, at) for at in (0.5, 0.95, 0.99))
    return Spread(p50, p95, p99, share, len(ordered))


def _sum(answer: Answer, wanted: Callable[[str], bool]) -> float:
    return sum(seconds for hop, seconds in answer.hops.items() if wanted(hop))


def _between_tokens(answer: Answer) -> float | None:
    tokens, decode_s = answer.about.completion_tokens or 0, answer.hops.get("decode")
    return decode_s / (tokens - 1) if decode_s is not None and tokens > 1 else None


def _relay_per_token(answer: Answer) -> float | None:
    tokens = answer.about.completion_tokens
    router = f"router{OTHERWISE}"
    return _sum(answer, lambda hop: _on_the_way(hop) or hop == router) / tokens if tokens else None


def _on_the_way(hop: str) -> bool:
    return TRANSIT in hop or hop == DELIVERY


def _size(said: About) -> tuple[int, str]:
    if said.prompt_tokens is None or said.completion_tokens is None:
        return len(SIZES) + 1, "?"
    tokens = said.prompt_tokens + said.completion_tokens
    at = sum(tokens > size for size in SIZES)
    return at, f"≤ {SIZES[at]}" if at < len(SIZES) else f"> {SIZES[-1]}"
