"""The strategy `encoder`: what it answers, and which artefacts it refuses."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.encoder import Encoder
from router_svc.strategies.encoder_reading import Reader, head_and_tail
from support.corpora import AWKWARD, TOPICS, corpus
from support.tiny_encoder import EXPERTS, MOST_TOKENS, VOCABULARY, model, table, tiny_encoder, with_file, with_settings

ENCODER = Encoder(tiny_encoder())


def test_prompts_go_to_their_topic() -> None:
    lines = corpus(50)
    scores = ENCODER.scores([line.prompt for line in lines])
    assert scores.dtype == np.float32
    assert scores.shape == (50, len(EXPERTS))
    assert [EXPERTS[at] for at in scores.argmax(axis=1)] == [line.domain for line in lines]


@pytest.mark.parametrize("prompt", AWKWARD)
def test_any_text_gets_probabilities(prompt: str) -> None:
    scores = ENCODER.scores([prompt])
    assert np.isfinite(scores).all()
    assert scores.sum() == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(ENCODER.vectors([prompt])) == pytest.approx(1, abs=1e-5)


@given(st.lists(st.text(st.sampled_from(" abcdefghijklmnopqrstuvwxyz\n\ud800🦙"), max_size=80), min_size=1, max_size=6))
def test_a_prompt_has_the_same_row_in_any_batch(prompts: list[str]) -> None:
    together = ENCODER.scores(prompts)
    for row, prompt in zip(together, prompts, strict=True):
        assert (ENCODER.scores([prompt])[0] == row).all()


def test_no_prompts_get_no_rows() -> None:
    assert ENCODER.scores([]).shape == (0, len(EXPERTS))
    assert ENCODER.vectors([]).shape == (0, ENCODER.dims)


def test_prompts_of_one_topic_lie_near_each_other() -> None:
    court, jury, python = ENCODER.vectors(["court contract appeal", "jury evidence tort", "python function loop"])
    assert court @ jury > court @ python


@pytest.mark.parametrize("filler", ["about ", "x" * 30])
def test_a_long_prompt_is_read_at_its_head_and_at_its_tail(filler: str) -> None:
    middle = (filler + " ") * 5000
    both = ENCODER.vectors([f"patient doctor {middle} court jury"])[0]
    assert both[EXPERTS.index("health")] > 0
    assert both[EXPERTS.index("law")] > 0


@given(st.lists(st.integers(), max_size=40), st.integers(4, 30))
def test_head_and_tail_keep_the_ends(ids: list[int], most: int) -> None:
    kept = list(head_and_tail(ids, most))
    assert len(kept) == min(len(ids), most)
    head = len(kept) - len(kept) // 2
    assert kept[:head] == ids[:head]
    assert kept[head:] == ids[len(ids) - len(kept) // 2 :]


def test_a_tokenizer_that_cuts_and_pads_does_neither_here() -> None:
    from tokenizers import Tokenizer

    cutting = Tokenizer.from_buffer(tiny_encoder().files["tokenizer.json"])
    cutting.enable_truncation(2)
    cutting.enable_padding(length=9)
    reader = Reader(cutting.to_str().encode(), most=MOST_TOKENS)
    assert len(reader.read("patient doctor blood")) == 3


def test_a_lower_temperature_is_surer() -> None:
    prompt = ["patient doctor about this"]
    assert Encoder(with_settings(temperature=0.5)).scores(prompt).max() > ENCODER.scores(prompt).max()


def test_a_saved_encoder_scores_as_before(tmp_path: Path) -> None:
    generation = artefacts.save(tmp_path, tiny_encoder())
    again = Encoder(artefacts.load(tmp_path))
    prompts = [line.prompt for line in corpus(10)]
    assert again.generation == generation
    assert (again.scores(prompts) == ENCODER.scores(prompts)).all()


def test_a_prompt_whose_vector_is_no_number_is_scored_evenly() -> None:
    vectors = table()
    vectors[VOCABULARY.index("jury")] = 0  # 0 / 0 for a prompt of this word alone
    scores = Encoder(with_file("model.onnx", model(vectors))).scores(["jury", "court"])
    assert scores[0] == pytest.approx(1 / len(EXPERTS))
    assert EXPERTS[scores[1].argmax()] == "law"


def test_importing_the_strategy_loads_neither_onnxruntime_nor_tokenizers() -> None:
    """Every start of a router would pay for it, whatever its strategy."""
    code = (
        "import sys, router_svc.strategies.encoder; sys.exit(bool({'onnxruntime', 'tokenizers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own interpreter


NOT_NUMBERS = np.full((len(VOCABULARY), len(EXPERTS) + 1), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("artefact", "problem"),
    [
        (replace(tiny_encoder(), strategy="lexical"), "fitted for strategy 'lexical'"),
        (replace(tiny_encoder(), experts=()), "names no experts"),
        (with_file("model.onnx", None), "has no model.onnx"),
        (with_file("tokenizer.json", None), "has no tokenizer.json"),
        (with_file("model.onnx", b""), "model.onnx: is not a model"),
        (with_file("model.onnx", b"\x08\x0a garbage"), "model.onnx: is not a model"),
        (with_file("model.onnx", model()[:-200]), "model.onnx: is not a model"),
        (with_file("model.onnx", model(opset=99)), "model.onnx: is not a model"),
        (with_file("model.onnx", model(takes="tokens")), "not input_ids of int64"),
        (with_file("model.onnx", model(gives="logits")), "not input_ids of int64 and vector of float"),
        (with_file("model.onnx", model() + b"\n\x08location\x12\x05/etc/"), "keeps tensors in other files"),
        (with_file("model.onnx", model(NOT_NUMBERS)), "gives no vector of unit length"),
        (with_file("model.onnx", model(unit=False)), "gives no vector of unit length"),
        (with_file("model.onnx", model(table()[:5])), "fails on 16 tokens"),
        (with_file("model.onnx", model(np.ones((len(VOCABULARY), 2), np.float32))), "the head has tensors"),
        (with_file("tokenizer.json", b""), "tokenizer.json: is not a tokenizer"),
        (with_file("tokenizer.json", b"{}"), "tokenizer.json: is not a tokenizer"),
        (with_file("tokenizer.json", b"\xff\x00"), "tokenizer.json: is not a tokenizer"),
        (replace(tiny_encoder(), tensors={}), "the head has tensors"),
        (
            replace(tiny_encoder(), tensors=dict(tiny_encoder().tensors) | {"bias": np.full(5, np.nan, np.float32)}),
            "not finite",
        ),
        *((with_settings(temperature=wrong), "temperature is") for wrong in (0, -1, None, True, "1", float("inf"))),
        *((with_settings(most_tokens=wrong), "most_tokens is") for wrong in (0, 3, 10**9, None, True, 12.0)),
    ],
)
def test_an_artefact_that_cannot_be_used_is_refused_in_one_line(artefact: Artefact, problem: str) -> None:
    with pytest.raises(ArtefactError) as refused:
        Encoder(artefact)
    message = str(refused.value)
    assert problem in message
    assert message.startswith(artefact.source)
    assert "\n" not in message


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_model_is_refused_or_serves(seed: int) -> None:
    """Whatever bytes stand in the file, the process lives."""
    draw = np.random.default_rng(seed)
    content = bytearray(model())
    for at in draw.integers(0, len(content), size=3):
        content[at] = draw.integers(0, 256)
    try:
        scores = Encoder(with_file("model.onnx", bytes(content))).scores([" ".join(TOPICS)])
    except ArtefactError:
        return
    assert scores.sum() == pytest.approx(1, abs=1e-5)
