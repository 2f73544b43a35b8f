"""Word problems with a number as their answer, solved by every expert in one vLLM engine."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from pairs import Pair
from responses import ADAPTERS, BASE

ANSWER_TOKENS = 200
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# The end of GSM8K's answers. The base model was not taught it, and gets no credit for form: any last number counts.
RESULT_MARK = "####"
ENGINE: dict[str, Any] = {
    "model": str(BASE),
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 1 << 30,
    "enforce_eager": True,
    "enable_lora": True,
    "max_lora_rank": 8,
    "disable_log_stats": True,
}


def result_in(text: str) -> Decimal | None:
    """The number that an answer gives: the first after the result mark, or else the last one of all."""
    _, mark, rest = text.partition(RESULT_MARK)
    numbers = NUMBER.findall(rest)[:1] if mark else []
    numbers = numbers or NUMBER.findall(text)[-1:]
    try:
        return Decimal(numbers[0].replace(",", "")) if numbers else None
    except InvalidOperation:
        return None


def solved(questions: Sequence[Pair], experts: Sequence[str]) -> dict[str, list[bool]]:
    """Whether each expert's greedy answer to each question has the reference's number, in their order.

    Args:
        questions: with reference answers that end in `#### NUMBER`.
        experts: adapters by name; another name is the base model.
    """
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    adapters = [expert for expert in experts if (ADAPTERS / expert).is_dir()]
    # One adapter's place stays empty: see expert_svc/vllm_engine/starting.py.
    engine = LLM(**ENGINE, max_loras=len(adapters) + 1)
    greedy = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0)
    turns: list[Any] = [[{"role": "user", "content": question.prompt}] for question in questions]
    wanted = [result_in(question.response) for question in questions]
    found = {}
    for expert in experts:
        began = time.monotonic()
        lora = LoRARequest(expert, 1 + adapters.index(expert), str(ADAPTERS / expert)) if expert in adapters else None
        answers = [output.outputs[0].text for output in engine.chat(turns, greedy, lora_request=lora, use_tqdm=False)]
        found[expert] = [result_in(answer) == number for answer, number in zip(answers, wanted, strict=True)]
        marked = sum(RESULT_MARK in answer for answer in answers)
        print(
            f"{expert}: {sum(found[expert])} of {len(questions)} right, {marked} with a result's line, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    engine.llm_engine.engine_core.shutdown()
    return found
