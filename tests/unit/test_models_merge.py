"""Blends of adapters: the weighted sum of their changes, in one adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.model_scripts import script

merging = script("merge_adapters")

SHAPES = {"base_model.model.a.q_proj": (12, 10), "base_model.model.a.v_proj": (6, 10)}
CONFIG = {
    "base_model_name_or_path": "tiny",
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
}


def made_up(folder: Path, seed: int, **changes: Any) -> Path:
    """Write a random adapter of rank 2."""
    torch.manual_seed(seed)
    weights = {}
    for module, (out, inputs) in SHAPES.items():
        weights[f"{module}.lora_A.weight"] = torch.randn(2, inputs)
        weights[f"{module}.lora_B.weight"] = torch.randn(out, 2)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Any]:
    return [merging.read_adapter(made_up(tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))]


def change(adapter: Any, module: str) -> torch.Tensor:
    a, b = adapter.factors[module]
    return adapter.scale * b @ a


def summed(parts: list[tuple[Any, float]], module: str) -> torch.Tensor:
    return torch.stack([weight * change(adapter, module) for adapter, weight in parts]).sum(dim=0)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.8, -0.3)])
def test_a_blends_change_is_the_weighted_sum_of_the_changes(two: list[Any], weights: tuple[float, float]) -> None:
    parts = list(zip(two, weights, strict=True))

    blend = merging.merge(parts)

    assert blend.config["r"] == 4
    for module in SHAPES:
        torch.testing.assert_close(change(blend, module), summed(parts, module))


def test_averaged_factors_would_be_another_change(two: list[Any]) -> None:
    module = next(iter(SHAPES))
    (a1, b1), (a2, b2) = (adapter.factors[module] for adapter in two)

    averaged = two[0].scale * ((b1 + b2) / 2) @ ((a1 + a2) / 2)

    assert not torch.allclose(averaged, summed([(adapter, 0.5) for adapter in two], module), atol=0.1)


def test_a_blend_of_one_is_that_adapter_at_part_strength(two: list[Any]) -> None:
    blend = merging.merge([(two[0], 0.5)])

    assert blend.config["r"] == 2
    for module in SHAPES:
        torch.testing.assert_close(change(blend, module), 0.5 * change(two[0], module))


def test_refactorised_to_fewer_ranks_it_is_the_nearest_matrix_of_them(two: list[Any]) -> None:
    parts = [(adapter, 0.5) for adapter in two]

    blend = merging.merge(parts, rank=3)

    assert blend.config["r"] == 3
    for module in SHAPES:
        wanted = summed(parts, module)
        u, values, v = torch.linalg.svd(wanted)
        nearest = u[:, :3] @ torch.diag(values[:3]) @ v[:3]
        torch.testing.assert_close(change(blend, module), nearest, atol=1e-4, rtol=1e-4)


def test_refactorised_to_more_ranks_than_it_has_nothing_is_lost(two: list[Any]) -> None:
    blend = merging.merge([(adapter, 0.5) for adapter in two], rank=9)

    assert blend.config["r"] == 4
    for module in SHAPES:
        torch.testing.assert_close(
            change(blend, module), summed([(adapter, 0.5) for adapter in two], module), atol=1e-4, rtol=1e-4
        )


def test_what_is_written_is_read_again_to_bf16(two: list[Any], tmp_path: Path) -> None:
    blend = merging.merge([(adapter, 0.5) for adapter in two])

    merging.write_adapter(blend, tmp_path / "blend")

    again = merging.read_adapter(tmp_path / "blend")
    assert {w.dtype for w in load_file(tmp_path / "blend/adapter_model.safetensors").values()} == {torch.bfloat16}
    for module in SHAPES:
        torch.testing.assert_close(change(again, module), change(blend, module), atol=0.05, rtol=0.02)


def test_adapters_that_do_not_fit_together_are_refused(two: list[Any], tmp_path: Path) -> None:
    other_base = merging.read_adapter(made_up(tmp_path / "far", 2, base_model_name_or_path="other"))
    fewer = merging.Adapter(dict(list(two[0].factors.items())[:1]), two[0].scale, two[0].config)

    for parts, saying in (
        ([], "nothing"),
        ([(two[0], 1.0), (other_base, 1.0)], "different base models"),
        ([(two[0], 1.0), (fewer, 1.0)], "different modules"),
        ([(two[0], float("nan"))], "no weight"),
    ):
        with pytest.raises(merging.MergeError, match=saying):
            merging.merge(parts)


def test_what_is_no_plain_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(merging.MergeError, match="no adapter can be read"):
        merging.read_adapter(tmp_path / "nowhere")
    with pytest.raises(merging.MergeError, match="use_dora"):
        merging.read_adapter(made_up(tmp_path / "dora", 0, use_dora=True))


def test_peft_serves_a_blend_as_the_weighted_sum(two: list[Any], tmp_path: Path) -> None:
    """The whole way: written, loaded by PEFT into a model, and asked."""
    from peft import PeftModel

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(10, 12, bias=False)
            self.v_proj = torch.nn.Linear(10, 6, bias=False)

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Attention()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a.q_proj(x), self.a.v_proj(x)], dim=1)

    parts = [(two[0], 0.25), (two[1], 0.75)]
    blend = merging.merge(parts)
    merging.write_adapter(blend, tmp_path / "blend")
    model, x = Tiny(), torch.randn(5, 10)
    with torch.no_grad():
        before = model(x)
        adapted = PeftModel.from_pretrained(model, tmp_path / "blend")(x)

    change_of = torch.cat([summed(parts, module) for module in SHAPES])
    torch.testing.assert_close(adapted - before, x @ change_of.T, atol=0.2, rtol=0.02)
