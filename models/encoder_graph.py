"""A BERT sentence encoder as an ONNX graph: int8 weights, no mask.

Written node by node: an export by tracing brings along masks and shapes that a prompt which is never padded has no use
for, and keeps the word table in a form that cannot have a scale per word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

OPSET = 20  # the first with Gelu
IR_VERSION = 10
RUNTIME = "com.microsoft"  # the domain of onnxruntime's own operators
EPSILON = 1e-12  # of BERT's layer normalisation

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(slots=True)
class Graph:
    """Nodes and constants as they come."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, which has the node's name; returns it."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, name: str, inputs: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """Add inputs @ weight + bias; the weight has shape (from, to)."""
        product = self.node("MatMul", f"{name}.product", inputs, self.constant(f"{name}.weight", weight))
        return self.node("Add", name, product, self.constant(f"{name}.bias", bias))

    def normalised(self, name: str, inputs: str, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> str:
        """Add a layer normalisation over the last axis."""
        constants = self.constant(f"{name}.scale", scale), self.constant(f"{name}.shift", shift)
        return self.node("LayerNormalization", name, inputs, *constants, axis=-1, epsilon=EPSILON)


def sentence_encoder(weights: Weights, *, layers: int, heads: int, most_tokens: int) -> onnx.ModelProto:
    """Build the float32 encoder: `input_ids` int64 (prompts, tokens) → `vector` float32 (prompts, dims), unit length.

    Args:
        weights: of a BertModel by its own names; the word table goes in as int8 with a scale per word.
        most_tokens: how many positions are kept; no longer prompt can be encoded.
    """
    graph = Graph()
    hidden = _embedded(graph, weights, most_tokens)
    for layer in range(layers):
        hidden = _layer(graph, weights, layer, heads, hidden)
    mean = graph.node("ReduceMean", "mean", hidden, graph.constant("tokens_axis", np.array([1])), keepdims=0)
    length = graph.node("ReduceL2", "length", mean, graph.constant("dims_axis", np.array([-1])), keepdims=1)
    graph.node("Div", "vector", mean, length)
    dims = weights["embeddings.LayerNorm.weight"].size
    built = helper.make_graph(
        graph.nodes,
        "sentence_encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["prompts", "tokens"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["prompts", dims])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME, 1)]
    model = helper.make_model(built, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def quantised(model: onnx.ModelProto) -> bytes:
    """Return the model with int8 weights, a scale per output channel; activations are quantised while serving.

    Weights take seven of the eight bits: on processors without VNNI sums of products would overflow with eight.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # of what comes out of RUNTIME's operators
        )
        return path.read_bytes()


def _embedded(graph: Graph, weights: Weights, most_tokens: int) -> str:
    """Add words and positions, shape (prompts, tokens, dims)."""
    table = weights["embeddings.word_embeddings.weight"]
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    words = graph.constant("words", np.round(table / scales).astype(np.int8))
    rows = graph.node("Cast", "rows", graph.node("Gather", "rows.int8", words, "input_ids"), to=TensorProto.FLOAT)
    scale = graph.node("Gather", "rows.scale", graph.constant("words.scale", scales), "input_ids")
    meanings = graph.node("Mul", "meanings", rows, scale)
    positions = weights["embeddings.position_embeddings.weight"][:most_tokens]
    positions = positions + weights["embeddings.token_type_embeddings.weight"][0]
    zero, one = graph.constant("zero", np.array([0])), graph.constant("one", np.array([1]))
    tokens = graph.node("Shape", "tokens", "input_ids", start=1, end=2)
    places = graph.node("Slice", "places", graph.constant("positions", positions), zero, tokens, zero, one)
    norm = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    return graph.normalised("embedded", graph.node("Add", "embedded.sum", meanings, places), *norm)


def _layer(graph: Graph, weights: Weights, layer: int, heads: int, hidden: str) -> str:
    """Add one layer: attention and feed-forward, each with its way around and a normalisation after it."""
    at = f"encoder.layer.{layer}."

    def of(part: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weight, bias = weights[f"{at}{part}.weight"], weights[f"{at}{part}.bias"]
        return (weight.T if weight.ndim == 2 else weight), bias

    name = f"layer{layer}"
    parts = [of(f"attention.self.{part}") for part in ("query", "key", "value")]
    joint = graph.linear(
        f"{name}.qkv", hidden, np.concatenate([w for w, _ in parts], axis=1), np.concatenate([b for _, b in parts])
    )
    split = [f"{name}.q", f"{name}.k", f"{name}.v"]
    graph.nodes.append(helper.make_node("Split", [joint], split, name=f"{name}.split", axis=-1, num_outputs=3))
    # onnxruntime's own operator: a tenth less time a prompt than reshapes, transposes and products apart.
    whole = graph.node("MultiHeadAttention", f"{name}.seen", *split, num_heads=heads, domain=RUNTIME)
    attended = graph.node(
        "Add", f"{name}.around", graph.linear(f"{name}.out", whole, *of("attention.output.dense")), hidden
    )
    hidden = graph.normalised(f"{name}.attended", attended, *of("attention.output.LayerNorm"))
    inner = graph.node("Gelu", f"{name}.gelu", graph.linear(f"{name}.inner", hidden, *of("intermediate.dense")))
    outer = graph.node("Add", f"{name}.past", graph.linear(f"{name}.outer", inner, *of("output.dense")), hidden)
    return graph.normalised(f"{name}.end", outer, *of("output.LayerNorm"))
