"""What a router reads of a request: a prompt, or a conversation's parts, of which the last user turn weighs most."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertmesh.v1.generation_pb2 import ChatMessage, GenerateRequest, Role
from router_svc.classifying.talk import TALK
from router_svc.strategies.cascade import mixed

READ_CHARACTERS = 8192  # of each end of a text
_words = re.compile(r"[^\W_]{2,}").finditer
EARLIER_TURNS = 3  # user turns before the last that are read, as one text


@dataclass(frozen=True, slots=True)
class Weights:
    """What the parts of a conversation weigh."""

    earlier: float  # the turns before the last, beside 1 for a last turn that is about something
    system: float  # the system prompt, likewise
    full: int  # words of its own from which on a last turn weighs 1
    steepness: float  # of fewer, it weighs their share to this power


# Chosen by hand, with both halves of `python -m benchmarks.conversations` in view.
WEIGHTS = Weights(earlier=0.1, system=0.1, full=3, steepness=4)


@dataclass(frozen=True, slots=True)
class Reading:
    """The texts of one request that are scored. Falsy where there is none."""

    last: str  # the prompt, or the last user turn
    earlier: str = ""  # the user turns before it, the newest last
    system: str = ""

    def __bool__(self) -> bool:
        return bool(self.last or self.earlier or self.system)

    @property
    def texts(self) -> tuple[str, ...]:
        """The parts that are there, the last turn first even where it is empty."""
        return (self.last, *(part for part in (self.earlier, self.system) if part))

    def weights(self, weights: Weights = WEIGHTS) -> tuple[float, ...]:
        """Return what each of `texts` weighs. A last turn such as "and why?" only points to what was said before."""
        last = float((words_of_its_own(self.last, weights.full) / weights.full) ** weights.steepness)
        context = ((self.earlier, weights.earlier), (self.system, weights.system))
        return (last, *(weight for part, weight in context if part))


def reading_of(request: GenerateRequest) -> Reading:
    """Return what a router reads of a request. Token ids have no text.

    Of a very long text, head and tail: a prompt of megabytes must not hold the event loop.
    """
    match request.WhichOneof("input"):
        case "prompt":
            return Reading(ends_of(request.prompt))
        case "chat":
            messages = request.chat.messages
            turns = [_text(message) for message in messages if message.role == Role.ROLE_USER]
            system = "\n".join(_text(message) for message in messages if message.role == Role.ROLE_SYSTEM)
            earlier = "\n".join(turns[-1 - EARLIER_TURNS : -1])
            return Reading(ends_of(turns[-1]) if turns else "", ends_of(earlier), ends_of(system))
    return Reading("")


def text_of(request: GenerateRequest) -> str:
    """Return the prompt or the last user turn alone."""
    return reading_of(request).last


def ends_of(text: str) -> str:
    """Return a text, or head and tail of one that is very long."""
    return text if len(text) <= 2 * READ_CHARACTERS else f"{text[:READ_CHARACTERS]}\n{text[-READ_CHARACTERS:]}"


def words_of_its_own(text: str, most: int) -> int:
    """Count the different words of a text that are not merely about the conversation; at most `most`."""
    found: set[str] = set()
    for match in _words(text[:READ_CHARACTERS].lower()):
        if (word := match.group()) not in TALK:
            found.add(word)
            if len(found) == most:
                break
    return len(found)


def _text(message: ChatMessage) -> str:
    return "".join(part.text for part in message.parts)


def joined(rows: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """Return the scores of a request from those of its parts: their mean in log space.

    Args:
        rows: scores of each part, shape (parts, experts), rows summing to 1.
        weights: one for each part, in the same order, at least zero.

    Returns:
        Shape (experts,), summing to 1; the row itself where there is one part, or one that weighs anything.

    Source:
        Genest, Zidek 1986, combining probability distributions: the logarithmic opinion pool.
    """
    total = sum(weights)
    if len(rows) == 1 or total == 0:
        return np.asarray(rows[0])
    if max(weights) == total:
        return np.asarray(rows[int(np.argmax(weights))])
    return np.asarray(mixed([row[None] for row in rows], [weight / total for weight in weights])[0])
