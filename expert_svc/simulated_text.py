"""What a simulated expert says: a pure function of the expert and the tokens before, so that anyone can check it.

The vocabulary is words: token `i` is one word, and every word of the vocabulary is one token. Each next token depends
on the expert and on all tokens before it, wherever the prompt ends and the answer begins; so an answer that is
continued elsewhere, from the prompt's tokens and those already said, goes on with the very same tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from expertmesh.v1.generation_pb2 import FinishReason, GenerateRequest, Role, Sampling, TokenLogprob, TokenLogprobs

END = 0  # the end-of-sequence token; it has no text
DEFAULT_NEW_TOKENS = 64  # where the request does not say
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = [first + second for first in _CONSONANTS for second in _VOWELS]
_NUMBERS = {syllable: number for number, syllable in enumerate(_SYLLABLES)}
_MASK = 0xFFFF_FFFF_FFFF_FFFF


def word(token: int) -> str:
    """Return the word that `token` stands for: its number in syllables. The end token's is empty."""
    if token == END:
        return ""
    syllables = []
    while token:
        token, digit = divmod(token, len(_SYLLABLES))
        syllables.append(_SYLLABLES[digit])
    return "".join(reversed(syllables))


def token(said: str, vocabulary_size: int) -> int:
    """Return the token of a word; words that are not in the vocabulary share the tokens that are."""
    number, even = 0, said[: len(said) // 2 * 2]
    for start in range(0, len(even), 2):
        digit = _NUMBERS.get(even[start : start + 2])
        if digit is None:
            break
        number = number * len(_SYLLABLES) + digit
    else:
        if said and even == said and number < vocabulary_size and word(number) == said:
            return number
    return 1 + _digest(said) % (vocabulary_size - 1)


def prompt_tokens(request: GenerateRequest, vocabulary_size: int) -> list[int]:
    """Return the tokens of a request's prompt: for text, one for the role of each turn and one for each word."""
    match request.WhichOneof("input"):
        case "token_ids":
            return list(request.token_ids.ids)
        case "chat":
            turns = [(turn.role, "".join(part.text for part in turn.parts)) for turn in request.chat.messages]
        case _:
            turns = [(Role.ROLE_USER, request.prompt)]
    return [token(said, vocabulary_size) for role, text in turns for said in (f"<{Role.Name(role)}>", *text.split())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one step adds to an answer."""

    text: str
    token: int
    logprobs: TokenLogprobs | None


class Speech:
    """One answer, token by token, until `reason` is set.

    Args:
        expert: who speaks.
        prompt: the prompt's tokens.
        sampling: stop strings and tokens, `min_new_tokens`, `ignore_eos` and `logprobs` are honoured.
        max_new_tokens: where it ends at the latest.
        vocabulary_size: tokens are below this.
        ends_one_in: one token in so many ends the answer; 0 for none.
    """

    def __init__(
        self,
        expert: str,
        prompt: Iterable[int],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        vocabulary_size: int,
        ends_one_in: int = 0,
    ) -> None:
        self._state = _digest(expert)
        for before in prompt:
            self._state = _after(self._state, before)
        self._sampling = sampling
        self._stops = list(sampling.stop)
        self._held_back = max((len(stop) for stop in self._stops), default=1) - 1
        self._max_new_tokens = max_new_tokens
        self._vocabulary_size = vocabulary_size
        self._ends_one_in = ends_one_in
        self._unsent = ""
        self.said = 0  # tokens so far
        self.reason: FinishReason | None = None
        self.matched: str | int | None = None

    def next(self) -> Said:
        """Say one more token. Text that may be the beginning of a stop string is held back, as vLLM does."""
        drawn = self._draw()
        return self._say(drawn, self._logprobs(drawn) if self._sampling.HasField("logprobs") else None)

    def recall(self, tokens: Iterable[int], text: str) -> str:
        """Take up an answer that was cut off after `tokens`, of which `text` is out; returns what may go out at once.

        Raises:
            ValueError: the tokens do not say that text, or go on after the end.
        """
        sent = ""
        for token in tokens:
            if self.reason is not None:
                raise ValueError("tokens after the end")
            sent += self._say(token, None).text
        if not (sent + self._unsent).startswith(text):
            raise ValueError("another text")
        if len(text) > len(sent):
            self._unsent = self._unsent[len(text) - len(sent) :]
        return sent[len(text) :]

    def _say(self, drawn: int, logprobs: TokenLogprobs | None) -> Said:
        self._state = _after(self._state, drawn)
        self.said += 1
        may_stop = self.said > self._sampling.min_new_tokens
        if may_stop and drawn in self._sampling.stop_token_ids:
            self.reason, self.matched = FinishReason.FINISH_REASON_STOP, drawn
        elif drawn == END and not self._sampling.ignore_eos:
            self.reason = FinishReason.FINISH_REASON_STOP
        else:
            self._unsent += f" {word(drawn)}" if drawn != END else ""
            self._cut_at_stop(may_stop)
        if self.reason is None and self.said >= self._max_new_tokens:
            self.reason = FinishReason.FINISH_REASON_LENGTH
        keep = 0 if self.reason is not None else min(self._held_back, len(self._unsent))
        sent = self._unsent[: len(self._unsent) - keep]
        self._unsent = self._unsent[len(sent) :]
        return Said(text=sent, token=drawn, logprobs=logprobs)

    def _draw(self) -> int:
        mixed = _mix(self._state)
        may_end = self._ends_one_in and self.said >= self._sampling.min_new_tokens and not self._sampling.ignore_eos
        if may_end and (mixed >> 40) % self._ends_one_in == 0:
            return END
        return 1 + mixed % (self._vocabulary_size - 1)

    def _cut_at_stop(self, may_stop: bool) -> None:
        if not may_stop:
            return
        found = [(place, stop) for stop in self._stops if (place := self._unsent.find(stop)) >= 0]
        if found:
            place, stop = min(found)
            self._unsent = self._unsent[:place]
            self.reason, self.matched = FinishReason.FINISH_REASON_STOP, stop

    def _logprobs(self, drawn: int) -> TokenLogprobs:
        best = -(_mix(self._state ^ 1) % 1000) / 1000
        others = range(1, self._sampling.logprobs)
        top = [(drawn, best)] if self._sampling.logprobs else []
        top += [((drawn + place) % self._vocabulary_size, best - place) for place in others]
        entries = [
            TokenLogprob(token_id=id_, text=f" {word(id_)}", logprob=logprob, rank=rank)
            for rank, (id_, logprob) in enumerate(top, start=1)
        ]
        return TokenLogprobs(
            drawn=TokenLogprob(token_id=drawn, text=f" {word(drawn)}", logprob=best, rank=1), top=entries
        )


def expected_answer(
    expert: str,
    request: GenerateRequest,
    max_new_tokens: int | None = None,
    *,
    vocabulary_size: int = 50_000,
    ends_one_in: int = 0,
) -> tuple[str, list[int]]:
    """Return the text and the tokens that a simulated engine answers with.

    Args:
        max_new_tokens: None for what the request says, or else DEFAULT_NEW_TOKENS.
        vocabulary_size: as in the engine's `Simulation`.
        ends_one_in: as in the engine's `Simulation`.
    """
    if max_new_tokens is None:
        max_new_tokens = request.sampling.max_new_tokens or DEFAULT_NEW_TOKENS
    speech = Speech(
        expert,
        prompt_tokens(request, vocabulary_size),
        request.sampling,
        max_new_tokens=max_new_tokens,
        vocabulary_size=vocabulary_size,
        ends_one_in=ends_one_in,
    )
    said: list[Said] = []
    while speech.reason is None:
        said.append(speech.next())
    return "".join(one.text for one in said), [one.token for one in said]


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _after(state: int, token: int) -> int:
    return _mix(state ^ (token + 1) * 0x9E37_79B9_7F4A_7C15 & _MASK)


def _mix(state: int) -> int:
    """Return 64 well-mixed bits of `state`: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    state = (state ^ state >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    state = (state ^ state >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return state ^ state >> 31
