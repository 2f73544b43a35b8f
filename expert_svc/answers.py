"""How an expert answers: a place, the engine's chunks, the end with its timings."""

import time
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from expert_svc.admitting import EngineAdmission
from expert_svc.engine import Chunk, Ended, Engine, EngineDied, Milestones
from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, Precision, StageTimings, Usage
from mesh_wire.asked import Asked
from mesh_wire.auth.callers import calling, may_ask
from mesh_wire.deadlines import put_s
from mesh_wire.errors import NotFound, Unavailable
from mesh_wire.outlets import Outlet
from mesh_wire.resuming import name_of, times_of
from mesh_wire.untraced import Attributes, nothing
from mesh_wire.words import finish_word

STAGES = (
    ("engine.queue", "queue", "queued", "scheduled"),
    ("engine.prefill", "prefill", "scheduled", "first_token"),
    ("engine.decode", "decode", "first_token", "last_token"),
)


class ExpertAnswers:
    """The `Answers` of one engine."""

    def __init__(
        self,
        engine: Engine,
        admission: EngineAdmission,
        variants: Mapping[str, str] | None = None,
    ) -> None:
        """`variants` are the experts that are twins of others: the lower precision of each."""
        self._engine = engine
        self._admission = admission
        described = engine.description
        self._experts = [expert.name for expert in described.experts]
        self._variants = variants or {}
        self._attributes = {"gen_ai.provider.name": described.engine, "gen_ai.response.model": described.base_model}

    async def answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        expert = self._expert(request.expert, request.precision)
        asked.about = partial(self._about, expert)
        outlet.tally.expert = expert
        try:
            with self._admission.place_for(request, asked):
                ended = await self._generate(request, expert, outlet)
        except EngineDied as death:
            raise Unavailable(str(death), reason="ENGINE_DEAD", tokens_sent=str(outlet.tally.tokens)) from None
        outlet.finished(_finished(ended, request))
        # Nothing is awaited before this: the end leaves after it.
        self._record(ended, asked, expert, first=not request.resume.token_ids)

    def _about(self, expert: str) -> dict[str, Any]:
        return {**self._attributes, "gen_ai.request.model": expert, "expertmesh.expert": expert}

    def _expert(self, wanted: str, precision: Precision) -> str:
        expert = wanted or self._experts[0]
        caller = calling()
        may_ask(expert, caller.experts if caller is not None else None)
        if expert not in self._experts:
            raise NotFound(
                f"this replica does not serve {expert}",
                reason="EXPERT_UNKNOWN",
                field="expert",
                expert=expert,
                known=", ".join(self._experts),
            )
        if precision == (Precision.PRECISION_FULL if expert in self._variants else Precision.PRECISION_LOWER):
            raise NotFound(
                f"this replica serves {expert} in another precision",
                reason="EXPERT_UNKNOWN",
                field="precision",
                expert=expert,
                known=", ".join(self._experts),
            )
        return expert

    async def _generate(self, request: GenerateRequest, expert: str, outlet: Outlet) -> Ended:
        chunks = self._engine.generate(request, expert=expert, request_id=name_of(request))
        async with aclosing(chunks):
            async for chunk in chunks:
                match chunk:
                    case Chunk(text, token_ids, logprobs):
                        outlet.delta(text, token_ids, logprobs)
                    case Ended():
                        return chunk
        raise EngineDied("the engine ended an answer without saying why")

    def _answered(self, expert: str, ended: Ended, first_s: float | None) -> Attributes:
        about = {
            **self._about(expert),
            "gen_ai.usage.input_tokens": ended.prompt_tokens,
            "gen_ai.usage.output_tokens": ended.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": ended.cached_prompt_tokens,
            "gen_ai.response.finish_reasons": [finish_word(ended.reason)],
        }
        if first_s is not None:
            about["gen_ai.response.time_to_first_chunk"] = first_s
        return about

    def _record(self, ended: Ended, asked: Asked, expert: str, *, first: bool) -> None:
        """Put the engine's own times on the trace, the ways to it and from it, and what it counted.

        `first` says whether the answer's first token came from here.
        """
        if not asked.span.is_recording():
            return
        passed = ended.milestones

        def past(span: str, began: float | None, over: float | None) -> None:
            if began is not None and over is not None:
                asked.note((span, began, over, nothing, None))

        past("engine.submit", asked.began, passed.queued)
        for span, _, start, end in STAGES:
            past(span, getattr(passed, start), getattr(passed, end))
        first_s = passed.first_token - asked.began if passed.first_token is not None and first else None
        asked.about = partial(self._answered, expert, ended, first_s)
        past("engine.deliver", passed.last_token, time.monotonic())  # last: the caller waits for all of the above


def _finished(ended: Ended, request: GenerateRequest) -> Finished:
    finished = Finished(
        reason=ended.reason,
        usage=Usage(
            prompt_tokens=ended.prompt_tokens,
            completion_tokens=ended.completion_tokens,
            cached_prompt_tokens=ended.cached_prompt_tokens,
        ),
        timings=_timings(ended.milestones),
        request_id=request.request_id,
        resumed=times_of(request.resume) if request.resume.token_ids else 0,
    )
    match ended.matched:
        case str(text):
            finished.stop_string = text
        case int(token_id):
            finished.stop_token_id = token_id
    return finished


def _timings(milestones: Milestones) -> StageTimings:
    timings = StageTimings()
    for _, stage, start, end in STAGES:
        began, over = getattr(milestones, start), getattr(milestones, end)
        if began is not None and over is not None:
            put_s(getattr(timings, stage), max(0.0, over - began))
    return timings
