"""The encoder's ONNX graph, against the same network written in numpy; and what training does to its prompts."""

import json
import math
import random
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.model_scripts import script

graphs = script("encoder_graph")
corpora = script("encoder_corpus")

Floats = NDArray[np.float32]
DIMS, INNER, LAYERS, HEADS, WORDS, POSITIONS = 16, 32, 2, 4, 50, 12


def made_up_weights() -> dict[str, Floats]:
    """Random weights by the names of transformers' BertModel."""
    draw = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, DIMS),
        "embeddings.position_embeddings.weight": (POSITIONS, DIMS),
        "embeddings.token_type_embeddings.weight": (2, DIMS),
        "embeddings.LayerNorm.weight": (DIMS,),
        "embeddings.LayerNorm.bias": (DIMS,),
    }
    parts = {
        "attention.self.query": (DIMS, DIMS),
        "attention.self.key": (DIMS, DIMS),
        "attention.self.value": (DIMS, DIMS),
        "attention.output.dense": (DIMS, DIMS),
        "attention.output.LayerNorm": (DIMS,),
        "intermediate.dense": (INNER, DIMS),
        "output.dense": (DIMS, INNER),
        "output.LayerNorm": (DIMS,),
    }
    for layer in range(LAYERS):
        for part, shape in parts.items():
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
    return {name: draw.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}


def encoded(weights: dict[str, Floats], ids: list[int]) -> Floats:
    """Return the vector of one prompt, as BERT's paper has it."""

    def norm(x: Floats, name: str) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def linear(x: Floats, name: str) -> Floats:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    table = weights["embeddings.word_embeddings.weight"][ids]
    places = weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(table + places + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").reshape(len(ids), HEADS, -1) for part in ("query", "key", "value")
        )
        match = np.exp(np.einsum("qhd,khd->hqk", q, k) / math.sqrt(DIMS / HEADS))
        seen = np.einsum("hqk,khd->qhd", match / match.sum(-1, keepdims=True), v).reshape(len(ids), DIMS)
        x = norm(x + linear(seen, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        gelu = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(gelu, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


@pytest.fixture(scope="module")
def float_model() -> Any:
    return graphs.sentence_encoder(made_up_weights(), layers=LAYERS, heads=HEADS, most_tokens=POSITIONS)


def run(content: bytes, ids: list[int]) -> Floats:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    vector: Floats = session.run(["vector"], {"input_ids": np.array([ids])})[0][0]
    return vector


@pytest.mark.parametrize("ids", [[7], [1, 2, 3], list(range(POSITIONS))])
def test_the_graph_is_the_network(float_model: Any, ids: list[int]) -> None:
    """Within what the int8 word table loses."""
    assert run(float_model.SerializeToString(), ids) @ encoded(made_up_weights(), ids) > 0.999


def test_the_quantised_graph_holds_its_weights_in_int8_and_means_the_same(float_model: Any) -> None:
    content = graphs.quantised(float_model)
    ids = [5, 9, 3, 4]
    assert run(content, ids) @ encoded(made_up_weights(), ids) > 0.98
    tables = [each for each in onnx.load_from_string(content).graph.initializer if len(each.dims) == 2]
    kinds = Counter(onnx.TensorProto.DataType.Name(each.data_type) for each in tables if 1 not in each.dims)
    assert kinds == {"INT8": 1 + 4 * LAYERS, "FLOAT": 1}  # words and layers; positions


def test_a_question_loses_its_choices_and_keeps_its_words() -> None:
    question = "Which is a base?\nA. water\nB. lye\nC. vinegar\nD. salt"
    seen = {corpora.altered(question, random.Random(seed)) for seed in range(200)}
    assert "Which is a base?" in seen
    assert question in seen


@given(st.text(), st.integers(0, 1000))
def test_altering_leaves_something_of_any_prompt(prompt: str, seed: int) -> None:
    assert bool(corpora.altered(prompt, random.Random(seed)).strip()) >= bool(prompt.strip())


def test_what_is_held_back_is_not_trained_on(tmp_path: Path) -> None:
    number = count()
    records = [{"prompt": f"p{next(number)}", "domain": "law", "source": "mmlu/law"} for _ in range(50)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = corpora.read(path)
    others, kept = corpora.split(lines, 0.1, seed=3)
    assert len(kept) == 5
    assert sorted([*others, *kept], key=lambda line: line.number) == lines
    assert {line.source for line in lines} == {"mmlu"}
