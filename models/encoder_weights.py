"""What training leaves behind: tuned weights beside the published ones, and blends of the two.

Source:
    Wortsman et al. 2022 (arXiv 2109.01903): blended weights keep more of what the published ones know about other data.
"""

from __future__ import annotations

from pathlib import Path

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import BertModel

WEIGHTS, RECORD = "tuned.safetensors", "training.json"


def blended(base: BertModel, folder: Path, share: float) -> tuple[BertModel, NDArray[np.float32], NDArray[np.float32]]:
    """Put published weights + share * (tuned - published) into `base`, in place.

    Returns:
        It, and the head's weight (dims, domains) and bias (domains,), blended likewise.

    Raises:
        ValueError: a narrowed encoder has no weights to blend with.
    """
    weights = load_file(folder / WEIGHTS)
    head = {
        part: torch.lerp(weights.pop(f"head.first.{part}"), weights.pop(f"head.tuned.{part}"), share)
        for part in ("weight", "bias")
    }
    published = dict(base.named_parameters())
    for name, tuned in weights.items():
        if tuned.shape != published[name].shape and share != 1:
            raise ValueError(f"{folder}: narrowed, so only a blend of 1 is possible")
        mixed = tuned if share == 1 else torch.lerp(published[name].detach(), tuned, share)
        published[name].data = mixed
    return base, head["weight"].T.contiguous().numpy(), head["bias"].numpy()
