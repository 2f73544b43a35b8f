"""The int8 twin of a checkpoint, on a tiny random Llama."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support.model_scripts import script

prepare, quantise = script("prepare"), script("quantise")

HIDDEN, INNER, WORDS = 16, 40, 32
LINEAR = {
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj.weight": (8, HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, INNER),
}
PLAIN = {
    "model.embed_tokens.weight": (WORDS, HIDDEN),
    "lm_head.weight": (WORDS, HIDDEN),
    "model.norm.weight": (HIDDEN,),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in (LINEAR | PLAIN).items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_linear_layers_become_int8_with_a_scale_for_each_output(checkpoint: Path, tmp_path: Path) -> None:
    quantise.quantise(checkpoint, tmp_path / "twin")

    twin = load_file(tmp_path / "twin/model.safetensors")
    assert twin.keys() == LINEAR.keys() | PLAIN.keys() | {f"{name}_scale" for name in LINEAR}
    for name, shape in LINEAR.items():
        assert (twin[name].dtype, tuple(twin[name].shape)) == (torch.int8, shape)
        assert (twin[f"{name}_scale"].dtype, tuple(twin[f"{name}_scale"].shape)) == (torch.float32, (shape[0], 1))


def test_embedding_head_and_norms_stay_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    quantise.quantise(checkpoint, tmp_path / "twin")

    original, twin = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "twin/model.safetensors")
    for name in PLAIN:
        assert torch.equal(twin[name], original[name])


def test_a_weight_comes_back_to_half_a_step(checkpoint: Path, tmp_path: Path) -> None:
    quantise.quantise(checkpoint, tmp_path / "twin")

    original, twin = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "twin/model.safetensors")
    for name in LINEAR:
        scale = twin[f"{name}_scale"]
        error = (twin[name] * scale - original[name].float()).abs()
        assert (error <= scale * 0.5001).all()
        assert (twin[name].abs().amax(dim=1) == 127).all(), "each channel uses the whole range"


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8), st.sampled_from(["float32", "bfloat16"]))
def test_rounding_any_channel_is_symmetric_and_within_half_a_step(row: list[float], dtype: str) -> None:
    weight = torch.tensor([row], dtype=getattr(torch, dtype))

    whole, scale = quantise.rounded(weight)
    mirrored, _ = quantise.rounded(-weight)

    assert torch.equal(mirrored, -whole)
    assert ((whole * scale - weight.float()).abs() <= scale * 0.5001).all()


def test_a_channel_of_zeros_stays_zeros() -> None:
    whole, scale = quantise.rounded(torch.zeros(2, 3))

    assert not whole.any()
    assert torch.isfinite(scale).all()


def test_the_configuration_is_the_originals_and_what_compressed_tensors_reads(checkpoint: Path, tmp_path: Path) -> None:
    quantise.quantise(checkpoint, tmp_path / "twin")

    config = json.loads((tmp_path / "twin/config.json").read_text())
    written: dict[str, Any] = config.pop("quantization_config")
    assert config == json.loads((checkpoint / "config.json").read_text())
    group = written["config_groups"]["group_0"]
    assert (written["quant_method"], written["format"]) == ("compressed-tensors", "int-quantized")
    assert (group["weights"]["strategy"], group["weights"]["dynamic"]) == ("channel", False)
    assert (group["input_activations"]["strategy"], group["input_activations"]["dynamic"]) == ("token", True)
    assert (tmp_path / "twin/tokenizer.json").is_file()


def test_an_experts_twin_is_of_the_base_with_the_adapter_in_it(checkpoint: Path, tmp_path: Path) -> None:
    name = next(iter(LINEAR))
    adapter = tmp_path / "expert"
    adapter.mkdir()
    factors = {"lora_A": torch.randn(2, HIDDEN), "lora_B": torch.randn(HIDDEN, 2)}
    module = f"base_model.model.{name.removesuffix('.weight')}"
    save_file({f"{module}.{which}.weight": f for which, f in factors.items()}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))

    quantise.quantise(checkpoint, tmp_path / "twin", adapter)

    original, twin = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "twin/model.safetensors")
    wanted = original[name].float() + 2 * factors["lora_B"] @ factors["lora_A"]
    scale = twin[f"{name}_scale"]
    assert ((twin[name] * scale - wanted).abs() <= scale * 0.5001).all()
    (adapter / "adapter_model.safetensors").unlink()
    other = {f"{module}.{which}.weight": torch.randn(3, 3) for which in factors}
    save_file(other, adapter / "adapter_model.safetensors")
    with pytest.raises(prepare.PrepareError, match="for another model"):
        quantise.quantise(checkpoint, tmp_path / "other", adapter)
    with pytest.raises(prepare.PrepareError, match="no adapter in"):
        quantise.quantise(checkpoint, tmp_path / "other", tmp_path / "nowhere")


def test_a_complete_twin_is_left_and_one_of_other_weights_is_made_again(checkpoint: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"

    assert quantise.quantise(checkpoint, twin)
    assert not quantise.quantise(checkpoint, twin)
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, checkpoint / "model.safetensors")
    assert quantise.quantise(checkpoint, twin)
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"


def test_a_twin_that_lacks_a_file_is_made_again(checkpoint: Path, tmp_path: Path) -> None:
    quantise.quantise(checkpoint, tmp_path / "twin")
    (tmp_path / "twin/config.json").unlink()

    assert quantise.quantise(checkpoint, tmp_path / "twin")
    assert (tmp_path / "twin/config.json").is_file()


def test_what_cannot_be_quantised_is_refused_by_name_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    weights = load_file(checkpoint / "model.safetensors")
    broken = next(iter(LINEAR))

    def refused(saying: str, source: Path = checkpoint) -> None:
        with pytest.raises(prepare.PrepareError, match=saying):
            quantise.quantise(source, twin)
        assert not twin.exists()
        assert not list(tmp_path.glob(".*"))

    refused("no checkpoint in", tmp_path / "nowhere")
    save_file(weights | {broken: weights[broken] * float("nan")}, checkpoint / "model.safetensors")
    refused(f"{broken} is not finite")
    save_file({name: weights[name] for name in PLAIN}, checkpoint / "model.safetensors")
    refused("no linear layers")
    (checkpoint / "model.safetensors").write_bytes(b"no tensors")
    refused("cannot be read")
    (checkpoint / "prepared.json").write_text(json.dumps({"files": {"model.safetensors": {"sha256": "0"}}}))
    refused("is damaged")
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": {}}))
    refused("quantised already")
    (checkpoint / "config.json").write_text("{")
    refused("no JSON object")
