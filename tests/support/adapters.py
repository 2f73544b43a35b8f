"""LoRA adapters made up on the spot, in tests."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_adapter(folder: Path, *, base: Path, rank: int = 4, strength: float = 0.3, seed: int = 0) -> Path:
    """Write a random adapter on the query projections of the model in `base`, strong enough to change its answers."""
    shape = json.loads((base / "config.json").read_text())
    hidden, queries = shape["hidden_size"], shape["num_attention_heads"] * shape["head_dim"]
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = random.normal(0, strength, (rank, hidden)).astype(np.float32)
        weights[f"{name}.lora_B.weight"] = random.normal(0, strength, (queries, rank)).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
