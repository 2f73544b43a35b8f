"""From the contract's `Sampling` to vLLM's `SamplingParams`, and from vLLM's refusals to ours."""

import re
from collections.abc import Mapping
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from expert_svc.limits import check_vocabulary, out_of_vocabulary
from expert_svc.vllm_engine.structures import check_structure, structure_invalid
from expertmesh.v1.generation_pb2 import Sampling, StructuredOutput
from mesh_wire.errors import BadInput

_SAME_NAME = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "logprobs",
)
_FIELDS = {  # vLLM's name -> ours, where vLLM may name a parameter in a refusal
    **{name: name for name in (*_SAME_NAME, "top_k", "seed", "stop", "stop_token_ids", "logit_bias")},
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
}
_SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF  # seeds are signed where the engine keeps them; one too large would kill it


def sampling_params(
    sampling: Sampling, defaults: Mapping[str, Any], *, room: int, vocabulary_size: int
) -> SamplingParams:
    """Return how vLLM is to draw.

    Args:
        sampling: the caller's wishes.
        defaults: what absent fields take, by vLLM's names: the model's `generation_config`.
        room: tokens that the context window leaves; a larger `max_new_tokens` is cut to it.
        vocabulary_size: token ids are below this.

    Raises:
        BadInput: a token outside the vocabulary, a structure that cannot be one, or whatever else vLLM refuses.
    """
    _check_tokens(sampling, vocabulary_size)
    wishes: dict[str, Any] = {name: getattr(sampling, name) for name in _SAME_NAME if sampling.HasField(name)}
    if sampling.HasField("top_k"):
        wishes["top_k"] = min(sampling.top_k, vocabulary_size)
    if sampling.HasField("seed"):
        wishes["seed"] = sampling.seed & _SEED_BITS
    if sampling.HasField("max_new_tokens"):
        wishes["max_tokens"] = sampling.max_new_tokens
    if sampling.logit_bias:
        wishes["logit_bias"] = dict(sampling.logit_bias)
    if sampling.HasField("structured_output"):
        check_structure(sampling)
        wishes["structured_outputs"] = _form(sampling.structured_output)
    taken = {**defaults, **wishes}
    taken["max_tokens"] = max(1, min(taken.get("max_tokens") or room, room), min(sampling.min_new_tokens, room))
    try:
        return SamplingParams(
            **taken,
            min_tokens=sampling.min_new_tokens,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,  # made for this one request
        )
    except Exception as error:
        raise refusal(error, sampling) from None


def refusal(error: BaseException, sampling: Sampling) -> BadInput:
    """Return the error of the contract for a request that vLLM refused with `error`."""
    said = " ".join(str(error.args[0] if error.args else error).split())  # vLLM's `str` adds the value once more
    parameter = getattr(error, "parameter", None) or _first_word(said)
    if field := _FIELDS.get(parameter):
        return BadInput(said, reason="SAMPLING_OUT_OF_RANGE", field=f"sampling.{field}")
    if sampling.HasField("structured_output"):
        cause = " ".join(str(error.__cause__ or "").split())
        return structure_invalid(said if cause in said else f"{said} {cause}", sampling.structured_output)
    return BadInput(said or type(error).__name__, reason="REQUEST_REFUSED")


def _check_tokens(sampling: Sampling, vocabulary_size: int) -> None:
    check_vocabulary(sampling.stop_token_ids, "sampling.stop_token_ids", vocabulary_size)
    for token in sampling.logit_bias:
        if token >= vocabulary_size:
            raise out_of_vocabulary(token, f"sampling.logit_bias[{token}]", vocabulary_size)


def _form(structure: StructuredOutput) -> StructuredOutputsParams:
    match structure.WhichOneof("form"):
        case "json_schema":
            return StructuredOutputsParams(json=structure.json_schema)
        case "regex":
            return StructuredOutputsParams(regex=structure.regex)
        case "choice":
            return StructuredOutputsParams(choice=list(structure.choice.options))
        case _:
            return StructuredOutputsParams(grammar=structure.grammar)


def _first_word(said: str) -> str:
    found = re.match(r"\w+", said)
    return found.group() if found else ""
