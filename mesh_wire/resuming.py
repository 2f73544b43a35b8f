"""An answer that was cut off and goes on elsewhere: what its caller has of it, and whether it can go on."""

from collections.abc import Sequence
from hashlib import blake2b
from io import StringIO

from expertmesh.v1.generation_pb2 import GenerateRequest, Resume
from mesh_wire.errors import Unavailable
from mesh_wire.untraced import Way

_SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF  # seeds are below 2^63


class Delivered:
    """What has come of one answer, in whatever number of parts: its text and its tokens.

    It is added to for every token, so the text goes into a buffer and the tokens into one list: nothing is made anew.
    """

    __slots__ = ("_text", "add_text", "add_tokens", "attempt", "stream_id", "times", "token_ids", "way")

    def __init__(self, resume: Resume | None = None) -> None:
        """`resume` is what the caller had before it came to us; None: nothing."""
        self.way: Way | None = None  # where it was asked for last; None: nowhere yet
        self.stream_id = 0  # there
        self._text = StringIO()
        self.token_ids: list[int] = []
        self.add_text = self._text.write  # bound once
        self.add_tokens = self.token_ids.extend
        self.times = self.attempt = 0  # as in `Resume`
        if resume is not None:
            self._text.write(resume.text)
            self.token_ids.extend(resume.token_ids)
            self.times = times_of(resume)
            self.attempt = resume.attempt

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def add(self, text: str, token_ids: Sequence[int]) -> None:
        """Take note of what has come."""
        self.add_text(text)
        self.add_tokens(token_ids)

    def resume(self) -> Resume:
        """Return what to ask the rest with."""
        return Resume(token_ids=self.token_ids, text=self.text, times=self.times, attempt=self.attempt)


def obstacle(request: GenerateRequest) -> str:
    """Return the field of a request for which the rest of its answer cannot be drawn; empty: it can.

    An engine counts what presence and frequency penalties weigh from where its own answer begins, and a structure's
    automaton starts there; a penalty on repetition reads the prompt too, so it is as it would have been.
    """
    if not request.HasField("sampling"):
        return ""
    sampling = request.sampling
    if sampling.HasField("structured_output"):
        return "sampling.structured_output"
    if sampling.presence_penalty:
        return "sampling.presence_penalty"
    return "sampling.frequency_penalty" if sampling.frequency_penalty else ""


def unsupported(field: str, tokens_sent: int) -> Unavailable:
    """Return the error of an answer that was cut off and cannot go on."""
    return Unavailable(
        f"the answer was cut off, and {field} keeps it from going on elsewhere",
        reason="RESUME_UNSUPPORTED",
        field=field,
        tokens_sent=str(tokens_sent),
    )


def continued_seed(seed: int, tokens: int) -> int:
    """Return the seed of the rest of an answer whose first `tokens` tokens are there."""
    digest = blake2b(f"{seed} {tokens}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _SEED_BITS


def name_of(request: GenerateRequest) -> str:
    """Return the name that a request holds while it is answered.

    The rest of an answer has a name of its own, and every attempt at it: the server, or an expert behind it, may not
    have noticed yet that the caller of a former one is gone.
    """
    if not request.HasField("resume"):
        return request.request_id
    name = f"{request.request_id} part {times_of(request.resume) + 1}"
    return f"{name} attempt {request.resume.attempt + 1}" if request.resume.attempt else name


def times_of(resume: Resume) -> int:
    """Return how often an answer was cut off in its midst."""
    return max(1, resume.times) if resume.token_ids else resume.times
