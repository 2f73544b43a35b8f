"""A sentence encoder of a few kB, made when it is asked for: each word of a topic points along the topic's axis."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from router_svc.strategies.artefact import Artefact
from support.corpora import FILLER, TOPICS

EXPERTS = tuple(sorted(TOPICS))
MOST_TOKENS = 16
UNKNOWN = "[UNK]"
VOCABULARY = [UNKNOWN, *(word for topic in EXPERTS for word in TOPICS[topic].split()), *FILLER]
SHARPNESS = 6.0  # of the head: how sure a prompt of one topic's words makes it


def tokenizer() -> bytes:
    """Cut at white space, in lower case; one token a word."""
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made.to_str().encode()


def table() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the words' vectors, shape (vocabulary, topics + 1); the last axis is of words without a topic."""
    vectors = np.zeros((len(VOCABULARY), len(EXPERTS) + 1), dtype=np.float32)
    of = {word: at for at, topic in enumerate(EXPERTS) for word in TOPICS[topic].split()}
    for row, word in enumerate(VOCABULARY):
        vectors[row, of.get(word, len(EXPERTS))] = 1
    return vectors


def model(
    vectors: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    *,
    takes: str = "input_ids",
    gives: str = "vector",
    opset: int = 20,
    unit: bool = True,
) -> bytes:
    """Return the mean of the words' vectors as an ONNX model; what is wrong with it is for the caller to choose."""
    words = table() if vectors is None else vectors
    nodes = [
        helper.make_node("Gather", ["words", takes], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "tokens_axis"], ["mean"], keepdims=0),
        helper.make_node("ReduceL2", ["mean", "dims_axis"], ["length"], keepdims=1),
        helper.make_node("Div", ["mean", "length" if unit else "two"], [gives]),
    ]
    constants = {"words": words, "tokens_axis": np.array([1]), "dims_axis": np.array([-1]), "two": np.float32([2])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(takes, TensorProto.INT64, ["prompts", "tokens"])],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, ["prompts", words.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(made.SerializeToString())


@cache
def tiny_encoder() -> Artefact:
    """An artefact of strategy `encoder`, unsaved."""
    weight = SHARPNESS * np.eye(len(EXPERTS) + 1, len(EXPERTS), dtype=np.float32)
    return Artefact(
        strategy="encoder",
        experts=EXPERTS,
        words=(),
        tensors={"weight": weight, "bias": np.zeros(len(EXPERTS), dtype=np.float32)},
        settings={"most_tokens": MOST_TOKENS, "temperature": 1.0},
        provenance={"corpus": "made up"},
        mapping={},
        files={"model.onnx": model(), "tokenizer.json": tokenizer()},
        id="0123456789ab",
    )


def with_file(name: str, content: bytes | None) -> Artefact:
    """Return the tiny encoder with another file, or without it."""
    files = {key: value for key, value in tiny_encoder().files.items() if key != name}
    return replace(tiny_encoder(), files=files if content is None else files | {name: content})


def with_settings(**settings: Any) -> Artefact:
    """Return the tiny encoder with other settings."""
    return replace(tiny_encoder(), settings=json.loads(json.dumps(tiny_encoder().settings)) | settings)
