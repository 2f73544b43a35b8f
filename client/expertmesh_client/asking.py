"""What a caller writes, as the message that goes out. Mistakes that no message can carry are found here."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Precision, Role, Sampling, TokenIds
from mesh_wire.errors import BadInput

Message = ChatMessage | Mapping[str, str] | tuple[str, str]  # {"role": "user", "content": "..."} or ("user", "...")
Wishes = Sampling | Mapping[str, Any]  # {"max_new_tokens": 64, "temperature": 0}
PrecisionWish = Literal["full", "lower"]  # which of an expert and its twin may answer
_PRECISIONS = {
    None: Precision.PRECISION_UNSPECIFIED,
    "full": Precision.PRECISION_FULL,
    "lower": Precision.PRECISION_LOWER,
}
_ROLES = {"system": Role.ROLE_SYSTEM, "user": Role.ROLE_USER, "assistant": Role.ROLE_ASSISTANT}


def request_of(
    prompt: str | None = None,
    *,
    messages: Iterable[Message] | None = None,
    token_ids: Iterable[int] | None = None,
    expert: str = "",
    sampling: Wishes | None = None,
    request_id: str = "",
    conversation: str = "",
    precision: PrecisionWish | None = None,
) -> GenerateRequest:
    """Return the request for one of `prompt`, `messages` and `token_ids`.

    Raises:
        BadInput: none of them or several, a role or precision that does not exist, a value that the message cannot
            hold.
    """
    given = [name for name, value in (("prompt", prompt), ("messages", messages), ("token_ids", token_ids)) if value]
    if len(given) > 1:
        raise BadInput(f"{' and '.join(given)} exclude each other", reason="REQUEST_REFUSED", field="input")
    request = GenerateRequest(
        request_id=request_id,
        expert=expert,
        sampling=_sampling(sampling),
        conversation=_text(conversation, "conversation"),
        precision=_precision(precision),
    )
    if prompt is not None:
        request.prompt = _text(prompt, "prompt")
    elif messages is not None:
        request.chat.CopyFrom(Chat(messages=[_message(at, message) for at, message in enumerate(messages)]))
    elif token_ids is not None:
        request.token_ids.CopyFrom(_token_ids(token_ids))
    else:
        raise BadInput("one of prompt, messages and token_ids must be given", reason="INPUT_MISSING", field="input")
    return request


def _message(at: int, message: Message) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    role, text = (message.get("role", ""), message.get("content", "")) if isinstance(message, Mapping) else message
    here = f"chat.messages[{at}]"
    if (number := _ROLES.get(role)) is None:
        known = ", ".join(_ROLES)
        raise BadInput(f"role {role!r} is not one of {known}", reason="ROLE_UNKNOWN", field=f"{here}.role")
    return ChatMessage(role=number, parts=[Part(text=_text(text, f"{here}.parts[0]"))])


def _precision(wish: str | None) -> Precision:
    if (number := _PRECISIONS.get(wish)) is None:
        known = " or ".join(filter(None, _PRECISIONS))
        raise BadInput(f"{wish!r} is not {known}", reason="REQUEST_REFUSED", field="precision")
    return number


def _text(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("text that is not valid Unicode", reason="MESSAGE_MALFORMED", field=field) from None
    return text


def _token_ids(token_ids: Iterable[int]) -> TokenIds:
    try:
        return TokenIds(ids=token_ids)
    except (ValueError, TypeError) as error:
        raise BadInput(str(error), reason="TOKEN_OUT_OF_VOCABULARY", field="token_ids.ids") from None


def _sampling(wishes: Wishes | None) -> Sampling | None:
    if wishes is None or isinstance(wishes, Sampling):
        return wishes
    sampling = Sampling()
    for name, value in wishes.items():
        if name not in Sampling.DESCRIPTOR.fields_by_name:
            raise BadInput("no such value", reason="REQUEST_REFUSED", field=f"sampling.{name}")
        try:
            sampling.MergeFrom(Sampling(**{name: value}))
        except (ValueError, TypeError) as error:
            raise BadInput(str(error), reason="SAMPLING_OUT_OF_RANGE", field=f"sampling.{name}") from None
    return sampling
