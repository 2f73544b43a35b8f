"""What every engine refuses for its model's sake, in the same words."""

from collections.abc import Sequence

from expertmesh.v1.generation_pb2 import GenerateRequest, Priority
from mesh_wire.errors import BadInput


def check_vocabulary(ids: Sequence[int], field: str, vocabulary_size: int) -> None:
    """Raise BadInput TOKEN_OUT_OF_VOCABULARY for the first of `ids` that is not below `vocabulary_size`."""
    if max(ids, default=0) < vocabulary_size:
        return
    place, token = next((place, token) for place, token in enumerate(ids) if token >= vocabulary_size)
    raise out_of_vocabulary(token, f"{field}[{place}]", vocabulary_size)


def out_of_vocabulary(token: int, field: str, vocabulary_size: int) -> BadInput:
    return BadInput(
        f"token {token} is outside the vocabulary of {vocabulary_size}",
        reason="TOKEN_OUT_OF_VOCABULARY",
        field=field,
        vocabulary_size=str(vocabulary_size),
    )


def room_for_answer(prompt_tokens: int, min_new_tokens: int, context_length: int) -> int:
    """Return the tokens that the context window leaves for an answer, at least 1 and at least `min_new_tokens`.

    Raises:
        BadInput: PROMPT_TOO_LONG; it leaves fewer.
    """
    room = context_length - prompt_tokens
    if room >= max(1, min_new_tokens):
        return room
    wanted = f" and {min_new_tokens} new ones" if min_new_tokens > 1 else ""
    raise BadInput(
        f"{prompt_tokens} prompt tokens{wanted} do not fit into a context of {context_length}",
        reason="PROMPT_TOO_LONG",
        prompt_tokens=str(prompt_tokens),
        context_length=str(context_length),
    )


def urgency(request: GenerateRequest) -> int:
    """Return a request's class as engines have it: the smaller goes first. Standard, where it names none we know."""
    known = Priority.PRIORITY_INTERACTIVE <= request.priority <= Priority.PRIORITY_BATCH
    return int(request.priority if known else Priority.PRIORITY_STANDARD)
