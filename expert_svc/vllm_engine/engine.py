"""The `Engine` around a running AsyncLLM."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt, tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from expert_svc.engine import Chunk, Ended, EngineDied
from expert_svc.limits import check_vocabulary, room_for_answer, urgency
from expert_svc.load_board import LoadBoard
from expert_svc.load_meter import SETTLE_EVERY_S, LoadMeter
from expert_svc.vllm_engine.answers import Answer
from expert_svc.vllm_engine.logs import last_words
from expert_svc.vllm_engine.prompts import Prompts
from expert_svc.vllm_engine.sampling import refusal, sampling_params
from expert_svc.vllm_engine.seam import Seam, Seams, eos_of
from expertmesh.v1.expert_pb2 import DescribeResponse
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling, TokenIds
from mesh_wire.errors import Internal


class VllmEngine:
    """Answers requests with an AsyncLLM in this process. Made by `open_vllm_engine`."""

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        adapters: Mapping[str, LoRARequest | None],
        description: DescribeResponse,
        board: LoadBoard,
        meter: LoadMeter,
        last_words: Path,
    ) -> None:
        self._llm = llm
        self._adapters = adapters
        self._description = description
        self._board = board
        self._meter = meter
        self._last_words = last_words
        self._processes = list(llm.engine_core.resources.engine_manager.processes)
        self._defaults = llm.model_config.get_diff_sampling_param()
        self._seams = Seams(llm)
        self._eos = eos_of(llm)
        self._prompts = Prompts(llm.get_tokenizer(), vocabulary_size=description.vocabulary_size)
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def description(self) -> DescribeResponse:
        return self._description

    @property
    def board(self) -> LoadBoard:
        return self._board

    async def died(self) -> str:
        return await asyncio.shield(self._death)

    async def generate(
        self, request: GenerateRequest, *, expert: str, request_id: str
    ) -> AsyncGenerator[Chunk | Ended, None]:
        """As `Engine.generate`. A `max_new_tokens` beyond the context window is cut to what the window leaves."""
        prompt = await self._prompts.token_ids(request)
        room = room_for_answer(len(prompt), request.sampling.min_new_tokens, self._description.context_length)
        params = sampling_params(
            request.sampling, self._defaults, room=room, vocabulary_size=self._description.vocabulary_size
        )
        answer = Answer(request.sampling, prompt_tokens=len(prompt), request_id=request_id)
        ended: Ended | None = None
        if request.resume.token_ids:
            seam = self._seam(request, prompt, params)
            answer.resume(seam.token_ids)
            if (over := seam.over) is not None:
                if over.text:
                    yield Chunk(over.text, [])
                yield answer.over(over.reason, over.matched)
                return
            prompt, params = [*prompt, *seam.token_ids], seam.rest()
            self._seams.expect(request_id, seam)
        self._meter.admit(request_id, len(prompt))
        try:
            outputs_of = self._outputs(prompt, params, expert, request_id, urgency(request))
            async with aclosing(outputs_of) as outputs:
                async for output in outputs:
                    self._meter.begin(request_id)
                    if (chunk := answer.chunk(output)) is not None:
                        yield chunk
                    if output.finished:
                        ended = answer.ended(output)
        except EngineDeadError:
            raise EngineDied(await self.died()) from None
        except VLLMClientError as error:
            raise refusal(error, request.sampling) from None
        except EngineGenerateError as error:
            raise await self._failure(error, request, request_id) from error
        finally:
            self._meter.leave(request_id)
            self._seams.forget(request_id)
            if ended is None:  # vLLM aborts by itself, except in the instant between taking a request and saying so
                await self._llm.abort(request_id)
        if ended is None:
            raise Internal("the engine ended without saying why", reason="INTERNAL", request_id=request_id)
        yield ended

    def _seam(self, request: GenerateRequest, prompt: list[int], params: SamplingParams) -> Seam:
        check_vocabulary(request.resume.token_ids, "resume.token_ids", self._description.vocabulary_size)
        return Seam(self._llm.get_tokenizer(), request.resume, prompt=prompt, params=params, eos=self._eos)

    def _outputs(
        self, prompt: list[int], params: SamplingParams, expert: str, request_id: str, priority: int
    ) -> AsyncGenerator[RequestOutput, None]:
        # Checking a structure may take seconds. vLLM checks "raw" prompts in a thread of its own, others on the loop.
        raw = params.structured_outputs is not None
        given = TokensPrompt(prompt_token_ids=prompt) if raw else tokens_input(prompt)
        adapter = self._adapters[expert]
        return self._llm.generate(given, params, request_id, lora_request=adapter, priority=priority)

    async def _failure(self, error: EngineGenerateError, request: GenerateRequest, request_id: str) -> Exception:
        if self._llm.errored:
            return EngineDied(await self.died())
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):  # refused while reading the request, by a part without vLLM's own classes
            return refusal(cause, request.sampling)
        return Internal("the engine failed on this request", reason="INTERNAL", request_id=request_id)

    async def watch(self) -> None:
        """Keep the posted load current, and notice the engine's death, until cancelled or dead."""
        while not self._llm.errored:
            await asyncio.wait({self._output_handler()}, timeout=SETTLE_EVERY_S)
            self._meter.settle()
        self._death.set_result(self._why())

    async def warm_up(self) -> None:
        """Answer one token per expert: starts what vLLM starts with a first request, which then makes nobody wait."""
        for expert in self._adapters:
            # The first log-probabilities compile a kernel, for seconds in which the engine makes no step.
            sampling = Sampling(max_new_tokens=1, ignore_eos=True, logprobs=1)
            request = GenerateRequest(token_ids=TokenIds(ids=[0]), sampling=sampling)
            async with aclosing(self.generate(request, expert=expert, request_id=f"warm-up {expert}")) as chunks:
                async for _ in chunks:
                    pass

    def close(self) -> None:
        self._prompts.close()

    def _output_handler(self) -> "asyncio.Task[Any]":
        handler = self._llm.output_handler
        assert handler is not None, "started by warm_up"
        return handler

    def _why(self) -> str:
        if reason := last_words(self._last_words):
            return f"the engine failed: {reason}"
        for process in self._processes:
            process.join(0.2)
            if process.exitcode is not None and process.exitcode < 0:
                return f"the engine-core process was ended by {signal.Signals(-process.exitcode).name}"
            if process.exitcode:
                return f"the engine-core process ended with exit code {process.exitcode}"
        return "the engine-core process is gone"
