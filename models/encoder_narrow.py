"""Fewer inner units in the encoder's feed-forward layers: what costs most of the time, and is missed least.

Source:
    A layer's output rebuilt by least squares from what is kept of it: He, Zhang, Sun 2017 (arXiv 1707.06168), here with
    units ranked by what the others cannot say for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from encoder_base import by_length, padded
from transformers import BertModel

RIDGE = 1e-3  # of the mean variance: keeps the least squares well posed


def narrow(model: BertModel, ids: Sequence[Sequence[int]], inner: int) -> None:
    """Keep `inner` units of each feed-forward layer, in place, and refit its way out to what all units gave.

    Args:
        ids: tokens of some thousand-odd prompts that show what the units usually say.
    """
    for layer, (mean, covariance) in zip(model.encoder.layer, _statistics(model, ids), strict=True):
        way_in, way_out = layer.intermediate.dense, layer.output.dense
        spread = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(mean))
        alone = 1 / torch.linalg.inv(spread).diagonal()  # the variance that the other units do not explain
        importance = way_out.weight.norm(dim=0) ** 2 * alone
        kept = importance.argsort(descending=True)[:inner].sort().values
        refitted = torch.linalg.solve(spread[kept][:, kept], spread[kept] @ way_out.weight.T)
        with torch.no_grad():
            bias = way_out.bias + way_out.weight @ mean - refitted.T @ mean[kept]
            way_in.weight = torch.nn.Parameter(way_in.weight[kept].clone())
            way_in.bias = torch.nn.Parameter(way_in.bias[kept].clone())
            way_out.weight = torch.nn.Parameter(refitted.T.contiguous())
            way_out.bias = torch.nn.Parameter(bias)


def _statistics(model: BertModel, ids: Sequence[Sequence[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return mean (units,) and covariance (units, units) of each layer's inner units over all tokens."""
    sums: list[list[torch.Tensor]] = [[] for _ in model.encoder.layer]
    mask = torch.zeros(0)

    def watch(at: int, said: torch.Tensor) -> None:
        tokens = said[mask.bool()].float()
        tokens = torch.cat([tokens, torch.ones(len(tokens), 1)], dim=1)  # the last column gives means and count
        moments = tokens.T @ tokens
        sums[at] = [sums[at][0] + moments] if sums[at] else [moments]

    hooks = [
        layer.intermediate.register_forward_hook(lambda _, __, said, at=at: watch(at, said))
        for at, layer in enumerate(model.encoder.layer)
    ]
    with torch.inference_mode():
        for places in by_length(ids, 32):
            tokens, mask = padded([ids[at] for at in places])
            model(input_ids=tokens, attention_mask=mask)
    for hook in hooks:
        hook.remove()
    found = []
    for (moments,) in sums:
        mean = moments[-1, :-1].clone() / moments[-1, -1]
        found.append((mean, moments[:-1, :-1].clone() / moments[-1, -1] - torch.outer(mean, mean)))
    return found
