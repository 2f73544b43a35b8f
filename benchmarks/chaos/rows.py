"""An answer in the end, as one row of figures. Pure."""

from dataclasses import dataclass

from benchmarks.chaos.recorder import FLAWS, Recorder


@dataclass(slots=True)
class Row:
    """An answer in the end; seconds since this process's load began."""

    outcome: str  # of `recorder`, or the status and reason with which it failed
    over: str
    expert: str
    began_s: float
    first_s: float | None  # after it began
    gap_s: float
    gap_at_s: float
    took_s: float
    tokens: int
    resumed: int
    words: str = ""  # of what went wrong


def row_of(seen: Recorder, outcome: str, over: str, words: str, load_began: float, now: float) -> Row:
    """Return the row of an answer that is over; `words` say why it failed, if it did."""
    if outcome in FLAWS:
        at = next((n for n, (a, b) in enumerate(zip(seen.expected, seen.came, strict=False)) if a != b), -1)
        words = (
            f"{seen.request.request_id}: {len(seen.came)} tokens for {len(seen.expected)}, other from {at} on, "
            f"{seen.ends} ends, resumed {seen.resumed}, usage {'right' if seen.usage_right else 'wrong'}"
        )
    return Row(
        outcome=outcome,
        over=over,
        expert=seen.expert,
        began_s=seen.began - load_began,
        first_s=None if seen.first is None else seen.first - seen.began,
        gap_s=seen.gap_s,
        gap_at_s=seen.gap_at - load_began if seen.gap_at else 0.0,
        took_s=now - seen.began,
        tokens=len(seen.came),
        resumed=seen.resumed,
        words=words,
    )
