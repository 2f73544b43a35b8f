"""Narrowing the encoder's feed-forward layers, on a network of a few thousand weights."""

import pytest
import torch
from transformers import BertConfig, BertModel

from support.model_scripts import script

base = script("encoder_base")
narrowing = script("encoder_narrow")

INNER = 24
IDS = [[1 + (3 * row + at) % 39 for at in range(4 + row % 5)] for row in range(64)]


@pytest.fixture
def model() -> BertModel:
    """Every inner unit stands there twice."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": INNER}
    made = BertModel(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes), add_pooling_layer=False).eval()
    with torch.no_grad():
        for layer in made.encoder.layer:
            layer.intermediate.dense.weight.normal_()
            layer.intermediate.dense.weight[INNER // 2 :] = layer.intermediate.dense.weight[: INNER // 2]
            layer.intermediate.dense.bias.zero_()
            layer.output.dense.weight.normal_()
    return made


def test_units_that_others_repeat_go_almost_without_a_loss(model: BertModel) -> None:
    with torch.inference_mode():
        before = base.pooled(model, IDS)
        narrowing.narrow(model, IDS, INNER // 2)
        after = base.pooled(model, IDS)
    assert {layer.intermediate.dense.weight.shape[0] for layer in model.encoder.layer} == {INNER // 2}
    assert (before * after).sum(1).mean() > 0.99


def test_fewer_units_than_there_is_to_say_lose_something(model: BertModel) -> None:
    with torch.inference_mode():
        before = base.pooled(model, IDS)
        narrowing.narrow(model, IDS, 2)
        after = base.pooled(model, IDS)
    assert (before * after).sum(1).mean() < 0.99
