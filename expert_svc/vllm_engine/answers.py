"""From vLLM's `RequestOutput` to the engine's `Chunk` and `Ended`."""

from collections.abc import Mapping, Sequence

from vllm.logprobs import Logprob
from vllm.outputs import RequestOutput
from vllm.v1.metrics.stats import RequestStateStats

from expert_svc.engine import Chunk, Ended, Milestones
from expert_svc.vllm_engine.structures import structure_invalid
from expertmesh.v1.generation_pb2 import FinishReason, Sampling, TokenLogprob, TokenLogprobs
from mesh_wire.errors import BadInput, Internal

_REASONS = {
    "stop": FinishReason.FINISH_REASON_STOP,
    "repetition": FinishReason.FINISH_REASON_STOP,
    "length": FinishReason.FINISH_REASON_LENGTH,
}


class Answer:
    """One request's answer as it arrives, in outputs of kind DELTA."""

    def __init__(self, sampling: Sampling, *, prompt_tokens: int, request_id: str) -> None:
        self._sampling = sampling
        self._prompt_tokens = prompt_tokens
        self._request_id = request_id
        self._completion_tokens = 0
        self._newest: int | None = None

    def resume(self, token_ids: Sequence[int]) -> None:
        """Count the tokens that the caller had before this part of the answer."""
        self._completion_tokens = len(token_ids)

    def over(self, reason: FinishReason, matched: int | str | None) -> Ended:
        """Return the end of an answer that was complete before it came here."""
        return Ended(
            reason=reason,
            matched=matched,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            milestones=milestones(None),
        )

    def chunk(self, output: RequestOutput) -> Chunk | None:
        """Return what is new in `output`; None if there is nothing."""
        new = output.outputs[0]
        ids = list(new.token_ids)
        if ids:
            self._completion_tokens += len(ids)
            self._newest = ids[-1]
        if not (ids or new.text):
            return None
        logprobs: Sequence[TokenLogprobs] = ()
        if new.logprobs is not None and self._sampling.HasField("logprobs"):
            logprobs = [
                token_logprobs(token, likeliest, self._sampling.logprobs)
                for token, likeliest in zip(ids, new.logprobs, strict=True)
            ]
        return Chunk(new.text, ids, logprobs)

    def ended(self, output: RequestOutput) -> Ended:
        """Return the end that the last `output` tells of.

        Raises:
            BadInput: STRUCTURE_INVALID; the engine took the structure, and nothing can be drawn by it.
            Internal: the engine gave this request up.
        """
        last = output.outputs[0]
        if (reason := _REASONS.get(last.finish_reason or "")) is None:
            raise self._given_up(last.finish_reason)
        return Ended(
            reason=reason,
            matched=self._matched(last.stop_reason) if last.finish_reason == "stop" else None,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_prompt_tokens=min(output.num_cached_tokens or 0, self._prompt_tokens),
            milestones=milestones(output.metrics),
        )

    def _matched(self, stop_reason: int | str | None) -> int | str | None:
        """Return the request's own stop string or token; the model's end-of-sequence token is not one of them."""
        if isinstance(stop_reason, str):
            return stop_reason
        if self._newest in self._sampling.stop_token_ids:
            return self._newest
        return None

    def _given_up(self, finish_reason: str | None) -> BadInput | Internal:
        if finish_reason == "error" and self._sampling.HasField("structured_output"):
            return structure_invalid("the engine cannot draw by this structure", self._sampling.structured_output)
        return Internal(
            f"the engine gave the request up ({finish_reason})", reason="INTERNAL", request_id=self._request_id
        )


def milestones(stats: RequestStateStats | None) -> Milestones:
    """Return vLLM's timestamps. They are the engine-core process's monotonic clock, one and the same on a machine."""
    if stats is None:
        return Milestones(queued=None, scheduled=None, first_token=None, last_token=None)
    return Milestones(
        queued=stats.queued_ts or None,
        scheduled=stats.scheduled_ts or None,
        first_token=stats.first_token_ts or None,
        last_token=stats.last_token_ts or None,
    )


def token_logprobs(token: int, likeliest: Mapping[int, Logprob] | None, wanted: int) -> TokenLogprobs:
    """Return one position's log-probabilities: the drawn token's, and those of the `wanted` likeliest in order."""
    ranked: Sequence[tuple[int, Logprob]] = sorted(
        ((id_, entry) for id_, entry in (likeliest or {}).items() if entry.rank and entry.rank <= wanted),
        key=lambda item: item[1].rank or 0,
    )
    drawn = (likeliest or {}).get(token)
    return TokenLogprobs(
        drawn=_token_logprob(token, drawn) if drawn else TokenLogprob(token_id=token),
        top=[_token_logprob(id_, entry) for id_, entry in ranked[:wanted]],
    )


def _token_logprob(token: int, entry: Logprob) -> TokenLogprob:
    return TokenLogprob(
        token_id=token, text=entry.decoded_token or "", logprob=min(entry.logprob, 0.0), rank=entry.rank or 0
    )
