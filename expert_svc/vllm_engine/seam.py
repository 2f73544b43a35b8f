"""The rest of an answer that was cut off, as if vLLM had drawn the first part itself.

The engine reads the delivered tokens as the end of its prompt. vLLM's detokenizer must not: it would begin a new text
there, in the midst of a character or of a stop string. So the request gets a detokenizer that has been through the
delivered tokens already, exactly as it would have been had it drawn them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from vllm.logprobs import Logprob
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer
from vllm.v1.engine.output_processor import RequestState

from expertmesh.v1.generation_pb2 import FinishReason, Resume
from mesh_wire.errors import BadInput
from mesh_wire.resuming import continued_seed

_CONTEXT = 4  # tokens before one whose text vLLM looks at: no character has more bytes


@dataclass(frozen=True, slots=True)
class Over:
    """The delivered tokens were the whole answer; only its end was lost."""

    reason: FinishReason
    matched: str | int | None
    text: str  # of them, that the caller lacks


class Seam:
    """Where one answer was cut off."""

    def __init__(
        self,
        tokenizer: Any,
        resume: Resume,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        eos: Collection[int],
    ) -> None:
        """`params` are those of the whole answer; `eos` are the tokens that end one unless they are to be ignored.

        Raises:
            BadInput: RESUME_INVALID; the tokens do not say that text, or go on after the end.
        """
        self.token_ids = list(resume.token_ids)
        self._params = params
        self._eos = frozenset() if params.ignore_eos else frozenset(eos)
        about: Any = SimpleNamespace(request_id="resumed", prompt_token_ids=list(prompt), sampling_params=params)
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, about)
        assert isinstance(detokenizer, BaseIncrementalDetokenizer), "every model here has a tokenizer"
        self._detokenizer = detokenizer
        self.over: Over | None = None
        end: tuple[FinishReason, str | int | None] | None = None
        for number, token in enumerate(self.token_ids, start=1):
            if end is not None:
                raise _invalid("tokens after the end")
            end = self._take(token, number)
        if not detokenizer.output_text.startswith(resume.text):
            raise _invalid("another text")
        detokenizer._last_output_text_offset = len(resume.text)
        if end is not None:
            self.over = Over(*end, detokenizer.get_next_output_text(finished=True, delta=True))

    def rest(self) -> SamplingParams:
        """Return how the engine is to draw what is left."""
        params, done = self._params.clone(), len(self.token_ids)
        assert params.max_tokens is not None, "always set here"
        params.max_tokens -= done
        params.min_tokens = max(0, params.min_tokens - done)
        if params.seed is not None:
            params.seed = continued_seed(params.seed, done)
        return params

    def apply(self, state: RequestState) -> None:
        """Let vLLM's own state of the request go on from here."""
        state.detokenizer = self._detokenizer
        processor = state.logprobs_processor
        if processor is not None and processor.logprobs is not None:
            for token in self.token_ids[-_CONTEXT:]:
                processor.logprobs.append({token: Logprob(logprob=0.0)})

    def _take(self, token: int, number: int) -> tuple[FinishReason, str | int | None] | None:
        """Take one delivered token; return the end, if it is the last one."""
        params = self._params
        if number > params.min_tokens and (token in self._eos or token in (params.stop_token_ids or ())):
            self._detokenizer.update([token], True)
            own = token in (params.stop_token_ids or ())
            return FinishReason.FINISH_REASON_STOP, token if own else None
        if (stop := self._detokenizer.update([token], False)) is not None:
            return FinishReason.FINISH_REASON_STOP, stop
        if number == params.max_tokens:
            return FinishReason.FINISH_REASON_LENGTH, None
        return None


class Seams:
    """Gives requests their seams the moment that vLLM takes them in, before any output of theirs can be there."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._pending: dict[str, Seam] = {}  # by the request id that we gave
        processor = llm.output_processor
        self._states = processor.request_states
        self._add = processor.add_request
        processor.add_request = self._added  # type: ignore[method-assign]

    def expect(self, request_id: str, seam: Seam) -> None:
        """Apply a seam to the request of that id when it comes."""
        self._pending[request_id] = seam

    def forget(self, request_id: str) -> None:
        """Take back what `expect` said, if the request never came."""
        self._pending.pop(request_id, None)

    def _added(self, request: EngineCoreRequest, *about: Any, **named: Any) -> None:
        self._add(request, *about, **named)
        if (seam := self._pending.pop(request.external_req_id or "", None)) is not None:
            seam.apply(self._states[request.request_id])


def eos_of(llm: AsyncLLM) -> frozenset[int]:
    """Return the tokens that end an answer of this model."""
    found = llm.model_config.try_get_generation_config().get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    own = getattr(llm.get_tokenizer(), "eos_token_id", None)
    return frozenset(one for one in (*ids, own) if one is not None)


def _invalid(why: str) -> BadInput:
    return BadInput(why, reason="RESUME_INVALID", field="resume")
