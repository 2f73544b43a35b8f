"""What makes a request wrong whatever the model: checked at every door, before anything is spent on it.

Pure functions. What only an engine can know (lengths in tokens, its vocabulary, usable schemas) it checks itself.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from expertmesh.v1.generation_pb2 import Chat, GenerateRequest, Role, Sampling, StructuredOutput
from mesh_wire.errors import BadInput, Unsupported
from mesh_wire.resuming import obstacle, unsupported

MAX_NAME = 128
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKENS = 64
MAX_BIASES = 300
MAX_LOGPROBS = 20
SHORT_BYTES = 128  # of sampling whose verdict is remembered

# Field -> (in range?, the range in words). Every comparison is false for NaN.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 2, "from 0 to 2"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 up to 1"),
    "min_p": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "from -2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "from -2 to 2"),
    "repetition_penalty": (lambda value: 0 < value <= 10, "above 0 up to 10"),
    "max_new_tokens": (lambda value: value >= 1, "at least 1"),
    "logprobs": (lambda value: value <= MAX_LOGPROBS, f"at most {MAX_LOGPROBS}"),
    "seed": (lambda value: value < 2**63, "below 2^63"),
    "top_k": (lambda value: value < 2**31, "below 2^31"),
}


def check(request: GenerateRequest) -> None:
    """Refuse a request that no expert could answer.

    Raises:
        BadInput: with the reason and the field.
        Unsupported: it holds an image.
        Unavailable: RESUME_UNSUPPORTED; it is the rest of an answer that cannot go on.
    """
    # What most requests leave unset is not looked at twice: this runs at every door, for every request.
    if name := request.request_id:
        check_name(name, "request_id")
    if name := request.expert:
        check_name(name, "expert")
    if name := request.conversation:
        check_name(name, "conversation")
    match request.WhichOneof("input"):
        case "prompt":
            _not_blank(request.prompt, "prompt")
        case "chat":
            _check_chat(request.chat)
        case "token_ids":
            if not request.token_ids.ids:
                raise BadInput("no token ids", reason="PROMPT_EMPTY", field="token_ids.ids")
        case _:
            raise BadInput("one of prompt, chat and token_ids must be set", reason="INPUT_MISSING", field="input")
    if request.HasField("sampling"):
        serialized = request.sampling.SerializeToString()
        if len(serialized) <= SHORT_BYTES:
            _check_usual_sampling(serialized)
        else:
            _check_sampling(request.sampling)
    if request.HasField("resume"):
        _check_resume(request)


def check_name(name: str, field: str) -> None:
    """Refuse a name that is too long for a log line or would break one."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise BadInput(f"at most {MAX_NAME} printable characters", reason="NAME_INVALID", field=field)


def _not_blank(text: str, field: str) -> None:
    if not text.strip():
        raise BadInput("nothing to answer", reason="PROMPT_EMPTY", field=field)


def _check_chat(chat: Chat) -> None:
    if not chat.messages:
        raise BadInput("no messages", reason="PROMPT_EMPTY", field="chat.messages")
    for at, message in enumerate(chat.messages):
        here = f"chat.messages[{at}]"
        if message.role not in (Role.ROLE_SYSTEM, Role.ROLE_USER, Role.ROLE_ASSISTANT):
            raise BadInput(f"role {message.role} is not known", reason="ROLE_UNKNOWN", field=f"{here}.role")
        if not message.parts:
            raise BadInput("a turn without parts", reason="PROMPT_EMPTY", field=f"{here}.parts")
        for part_at, part in enumerate(message.parts):
            match part.WhichOneof("content"):
                case "text":
                    pass
                case "image":
                    raise Unsupported(
                        "images are not served yet", reason="IMAGE_UNSUPPORTED", field=f"{here}.parts[{part_at}].image"
                    )
                case _:
                    raise BadInput("an empty part", reason="PROMPT_EMPTY", field=f"{here}.parts[{part_at}]")
        if message.role == Role.ROLE_USER:
            _not_blank("".join(part.text for part in message.parts), f"{here}.parts")
    if chat.messages[-1].role != Role.ROLE_USER:
        last = len(chat.messages) - 1
        raise BadInput("the last turn must be the user's", reason="CHAT_INVALID", field=f"chat.messages[{last}].role")


@lru_cache(maxsize=1024)  # most requests ask alike, and to look closely takes as long as to choose a replica
def _check_usual_sampling(serialized: bytes) -> None:
    _check_sampling(Sampling.FromString(serialized))


def _check_sampling(sampling: Sampling) -> None:
    given: dict[str, Any] = {}  # seldom many
    for field, value in sampling.ListFields():
        given[name := field.name] = value
        if (limits := _RANGES.get(name)) is not None and not limits[0](value):
            raise BadInput(f"{value} is not {limits[1]}", reason="SAMPLING_OUT_OF_RANGE", field=f"sampling.{name}")
    if given.get("min_new_tokens", 0) > given.get("max_new_tokens", sampling.min_new_tokens):
        raise BadInput(
            f"{sampling.min_new_tokens} is above max_new_tokens, {sampling.max_new_tokens}",
            reason="SAMPLING_CONTRADICTORY",
            field="sampling.min_new_tokens",
        )
    if "stop" in given or "stop_token_ids" in given:
        _check_stops(sampling)
    if "logit_bias" in given:
        _check_biases(sampling)
    if "structured_output" in given:
        _check_form(sampling.structured_output)


def _check_resume(request: GenerateRequest) -> None:
    """Refuse to go on with an answer that cannot be the request's, or not by its rules."""
    resume = request.resume
    if not resume.token_ids:
        if resume.text:
            raise BadInput("text without tokens", reason="RESUME_INVALID", field="resume.text")
        return
    most = request.sampling.max_new_tokens
    if most and len(resume.token_ids) > most:
        raise BadInput(
            f"{len(resume.token_ids)} tokens, more than max_new_tokens, {most}",
            reason="RESUME_INVALID",
            field="resume.token_ids",
        )
    if field := obstacle(request):
        raise unsupported(field, 0)


def _check_biases(sampling: Sampling) -> None:
    if len(sampling.logit_bias) > MAX_BIASES:
        raise BadInput(f"at most {MAX_BIASES}", reason="SAMPLING_OUT_OF_RANGE", field="sampling.logit_bias")
    for token, bias in sampling.logit_bias.items():
        if not -100 <= bias <= 100:
            raise BadInput(
                f"{bias} is not from -100 to 100",
                reason="SAMPLING_OUT_OF_RANGE",
                field=f"sampling.logit_bias[{token}]",
            )


def _check_stops(sampling: Sampling) -> None:
    if len(sampling.stop) > MAX_STOPS:
        raise BadInput(
            f"{len(sampling.stop)} stop strings, at most {MAX_STOPS}", reason="STOP_INVALID", field="sampling.stop"
        )
    for at, stop in enumerate(sampling.stop):
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise BadInput(
                f"a stop string has 1 to {MAX_STOP_LENGTH} characters",
                reason="STOP_INVALID",
                field=f"sampling.stop[{at}]",
            )
    if len(sampling.stop_token_ids) > MAX_STOP_TOKENS:
        raise BadInput(f"at most {MAX_STOP_TOKENS}", reason="STOP_INVALID", field="sampling.stop_token_ids")


def _check_form(form: StructuredOutput) -> None:
    field = "sampling.structured_output"
    match form.WhichOneof("form"):
        case "json_schema":
            try:
                schema = json.loads(form.json_schema, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"not JSON: {error}", reason="STRUCTURE_INVALID", field=f"{field}.json_schema") from None
            if not isinstance(schema, dict | bool):
                raise BadInput(
                    "a JSON Schema is an object or a boolean", reason="STRUCTURE_INVALID", field=f"{field}.json_schema"
                )
        case "regex" if not form.regex:
            raise BadInput("empty", reason="STRUCTURE_INVALID", field=f"{field}.regex")
        case "grammar" if not form.grammar.strip():
            raise BadInput("empty", reason="STRUCTURE_INVALID", field=f"{field}.grammar")
        case "choice" if not form.choice.options or not all(form.choice.options):
            raise BadInput("options must not be empty", reason="STRUCTURE_INVALID", field=f"{field}.choice.options")
        case None:
            raise BadInput("no form is set", reason="STRUCTURE_INVALID", field=field)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
