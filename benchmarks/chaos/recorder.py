"""What came of an answer, beside what the deterministic engine must say. Pure, but for the clock that it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from expert_svc.simulated_text import expected_answer
from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest

GOOD, LEFT = "good", "left"  # the end of an answer; or a word of FLAWS, or why it failed
FLAWS = ("lost", "doubled", "crossed", "wrong")
_TELLING = 3  # tokens in a row that tell one answer from all others


def flaw(expected: Sequence[int], came: Sequence[int], others: Sequence[Sequence[int]] = ()) -> str:
    """Say what is wrong with tokens that came, as one of FLAWS; empty: nothing.

    Args:
        others: what other requests were to get.
    """
    if list(came) == list(expected):
        return ""
    same = next((at for at, (one, other) in enumerate(zip(expected, came, strict=False)) if one != other), None)
    if same is None:
        return "lost" if len(came) < len(expected) else "doubled"
    rest = list(came[same : same + _TELLING])
    if _within(rest, expected[:same]):
        return "doubled"
    if _within(rest, expected[same:]):
        return "lost"
    return "crossed" if any(_within(rest, other) for other in others) else "wrong"


def _within(part: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether `part` stands in `whole`; at the end of it, as much of it as fits."""
    return any(list(whole[at : at + len(part)]) == list(part[: len(whole) - at]) for at in range(len(whole)))


@dataclass(slots=True)
class Recorder:
    """One answer as it comes. All times are seconds of one clock."""

    request: GenerateRequest
    began: float
    expert: str = ""
    text: str = ""
    expected_text: str = ""
    expected: list[int] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    first: float | None = None
    last: float | None = None
    gap_s: float = 0.0  # the longest between two deltas
    gap_at: float = 0.0  # when that began
    ends: int = 0
    resumed: int = 0
    usage_right: bool = True

    def routed(self, expert: str) -> None:
        self.expert = expert
        self.expected_text, self.expected = expected_answer(expert, self.request)

    def delta(self, delta: Delta, now: float) -> None:
        if self.last is None:
            self.first = now
        elif now - self.last > self.gap_s:
            self.gap_s, self.gap_at = now - self.last, self.last
        self.last = now
        self.text += delta.text
        self.came += delta.token_ids

    @property
    def astray(self) -> bool:
        """Whether what has come so far can no longer become right."""
        return self.came != self.expected[: len(self.came)]

    def finished(self, finished: Finished) -> None:
        self.ends += 1
        self.resumed = finished.resumed
        self.usage_right = finished.usage.completion_tokens == len(self.expected)

    def verdict(self, others: Sequence[Sequence[int]] = ()) -> str:
        """Return GOOD or one of FLAWS, of an answer that has ended well by its own account."""
        if self.ends != 1:
            return "doubled" if self.ends else "lost"
        if found := flaw(self.expected, self.came, others):
            return found
        return GOOD if self.text == self.expected_text and self.usage_right else "wrong"
