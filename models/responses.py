"""What training and measuring share: a pair as tokens, and the loss of its response.

One way of cutting, one limit and one loss for both, so that the figures compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import torch
from pairs import Pair
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = "SmolLM2-135M-Instruct"
BASE = Path(__file__).resolve().parent / "base" / "smollm2-135m-instruct"
ADAPTERS = Path(__file__).resolve().parent / "adapters"
MAX_TOKENS = 320  # prompt with its template, response and end of turn; longer pairs are left out, never cut


@dataclass(frozen=True, slots=True)
class Example:
    """One pair as token ids: the chat turn as a server's template writes it, then the response from `start` on."""

    ids: tuple[int, ...]
    start: int

    @property
    def response_tokens(self) -> int:
        """How many tokens are predicted: the response and its end of turn."""
        return len(self.ids) - self.start


def load_base() -> tuple[Any, Any]:
    """The base model, frozen, in bfloat16 as it is served, and its tokenizer."""
    model: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
    model.requires_grad_(False)
    return model, load_tokenizer()


def load_tokenizer() -> Any:
    """The base model's tokenizer, which the adapters share."""
    return AutoTokenizer.from_pretrained(BASE)


def encode(tokenizer: Any, pair: Pair) -> Example:
    """Write one user turn by the model's chat template, its default system prompt included, and the response."""
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair.prompt}], tokenize=False, add_generation_prompt=True
    )
    prompt: list[int] = tokenizer(turn, add_special_tokens=False)["input_ids"]
    response: list[int] = tokenizer(pair.response, add_special_tokens=False)["input_ids"]
    return Example(ids=(*prompt, *response, tokenizer.eos_token_id), start=len(prompt))


def encode_short(tokenizer: Any, pairs: Sequence[Pair]) -> list[Example]:
    """The pairs of at most `MAX_TOKENS` tokens, in their order."""
    return [example for pair in pairs if len((example := encode(tokenizer, pair)).ids) <= MAX_TOKENS]


def response_nll(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Negative log-likelihood of each response token, in nats, float32, shape (response tokens of the batch,).

    Padding stands on the right, where causal attention never looks, so no mask is needed; and only
    the positions that predict a response go through the vocabulary layer, a fifth of the model.
    """
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        wanted[row, example.start : len(example.ids)] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][wanted[:, 1:]])
    return cross_entropy(logits.float(), ids[wanted], reduction="none")


def by_length(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Batches of `size` of similar length, longest first: the peak of memory and the slowest batch come at once."""
    ordered = sorted(examples, key=lambda example: len(example.ids), reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@torch.no_grad()
def text_nll(model: Any, examples: Sequence[Example], *, batch: int = 8) -> list[tuple[float, int]]:
    """Sum of the negative log-likelihoods of each response's text, in nats, and its number of tokens.

    The end of turn is not counted: learning where answers stop would make any adapter look better.
    The order is `by_length`'s, the same for every model.
    """
    sums: list[tuple[float, int]] = []
    for part in by_length(examples, batch):
        nll = iter(response_nll(model, part).tolist())
        for example in part:
            *text, _end = islice(nll, example.response_tokens)
            sums.append((math.fsum(text), len(text)))
    return sums


def perplexity(sums: Sequence[tuple[float, int]]) -> float:
    """exp of the mean negative log-likelihood over all tokens of all responses."""
    return math.exp(sum(nats for nats, _ in sums) / sum(tokens for _, tokens in sums))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON; enumerations and sets as their plain values."""
    plain = json.dumps(value, indent=2, sort_keys=False, default=lambda v: getattr(v, "value", None) or sorted(v))
    path.write_text(plain + "\n", encoding="utf-8")
