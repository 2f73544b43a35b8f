"""What the vLLM engine decides without vLLM: prompts, forms of answer, and reasons in one line."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from expert_svc.vllm_engine.logs import LastWords, OneLine, WithoutHarmless, last_words, one_line, write_config
from expert_svc.vllm_engine.prompts import OFF_LOOP_CHARACTERS, Prompts
from expert_svc.vllm_engine.structures import check_structure
from expertmesh.v1.generation_pb2 import Chat, ChatMessage, Choice, GenerateRequest, Part, Role, Sampling, TokenIds
from mesh_wire.errors import BadInput


def test_the_package_is_imported_without_vllm() -> None:
    program = "import sys, expert_svc.vllm_engine; sys.exit('vllm' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0  # noqa: S603 - our own words


# Prompts


class Tokenizer:
    """Keeps what it was asked to render; every character is a token."""

    def __init__(self, chat_template: str | None = "a template") -> None:
        self.chat_template = chat_template
        self.rendered: list[dict[str, str]] = []

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        assert options == {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
        if messages[-1]["content"] == "refuse me":
            raise ValueError("roles must\nalternate")
        self.rendered = messages
        return self.encode("".join(message["content"] for message in messages))

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


async def test_a_prompt_is_one_turn_of_the_user() -> None:
    tokenizer = Tokenizer()

    ids = await Prompts(tokenizer, vocabulary_size=256).token_ids(GenerateRequest(prompt="hi"))

    assert ids == [104, 105]
    assert tokenizer.rendered == [{"role": "user", "content": "hi"}]


async def test_a_chat_keeps_its_roles_and_joins_its_parts() -> None:
    tokenizer = Tokenizer()
    turns = [
        ChatMessage(role=Role.ROLE_SYSTEM, parts=[Part(text="be"), Part(text=" brief")]),
        ChatMessage(role=Role.ROLE_ASSISTANT, parts=[Part(text="yes?")]),
        ChatMessage(role=Role.ROLE_USER, parts=[Part(text="why")]),
    ]

    await Prompts(tokenizer, vocabulary_size=256).token_ids(GenerateRequest(chat=Chat(messages=turns)))

    assert tokenizer.rendered == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "why"},
    ]


async def test_a_long_prompt_is_read_the_same_way_in_a_thread() -> None:
    text = "x" * OFF_LOOP_CHARACTERS
    assert len(await Prompts(Tokenizer(), vocabulary_size=256).token_ids(GenerateRequest(prompt=text))) == len(text)


async def test_a_model_without_a_template_reads_plain_text() -> None:
    assert await Prompts(Tokenizer(None), vocabulary_size=256).token_ids(GenerateRequest(prompt="a")) == [97]


async def test_what_the_template_refuses_is_the_callers_to_mend() -> None:
    with pytest.raises(BadInput) as refused:
        await Prompts(Tokenizer(), vocabulary_size=256).token_ids(GenerateRequest(prompt="refuse me"))

    assert refused.value.reason == "CHAT_INVALID"
    assert refused.value.message.endswith("roles must alternate")


async def test_token_ids_pass_untouched() -> None:
    request = GenerateRequest(token_ids=TokenIds(ids=[255, 0, 255]))
    assert await Prompts(Tokenizer(), vocabulary_size=256).token_ids(request) == [255, 0, 255]


# Forms of answer


def schema(text: str, **others: Any) -> Sampling:
    return Sampling(structured_output={"json_schema": text}, **others)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"properties": {"not": {"type": "string"}, "if": {"$ref": "#/$defs/if"}}, "$defs": {"if": {}}}',
        '{"enum": [{"not": 1}]}',
        '{"const": {"$ref": "elsewhere"}}',
    ],
)
def test_a_schema_that_the_engine_keeps_to_is_taken(text: str) -> None:
    check_structure(schema(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "is a JSON object"),
        ("true", "is a JSON object"),
        ('{"type": "objekt"}', "not a JSON schema"),
        ('{"pattern": "(["}', "not a JSON schema"),
        ('{"not": {}}', "cannot keep to `not`"),
        ('{"properties": {"a": {"anyOf": [{"if": {}}]}}}', "cannot keep to `if`"),
        ('{"$ref": "other.json"}', "another document, other.json"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, ""),
    ],
    ids=lambda value: value[:30],
)
def test_a_schema_that_the_engine_would_not_keep_to_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_structure(schema(text))

    assert why in refused.value.message
    assert (refused.value.reason, refused.value.field) == (
        "STRUCTURE_INVALID",
        "sampling.structured_output.json_schema",
    )


@pytest.mark.parametrize("other", [{"ignore_eos": True}, {"min_new_tokens": 1}], ids=str)
def test_a_form_ends_where_it_is_complete(other: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        check_structure(Sampling(structured_output={"choice": Choice(options=["yes"])}, **other))

    assert (refused.value.reason, refused.value.field) == ("SAMPLING_CONTRADICTORY", f"sampling.{next(iter(other))}")


# Reasons in one line


class Setting(BaseModel):
    size: int
    kind: int | float = 0


def test_a_wrong_setting_is_named_once() -> None:
    with pytest.raises(ValidationError) as wrong:
        Setting.model_validate({"size": "two", "kind": "x"})

    said = one_line(wrong.value)
    assert said.startswith("size: Input should be a valid integer")
    assert said.count("kind:") == 1
    assert "\n" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (KeyError("k"), "KeyError: 'k'"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("x" * 1000), "x" * 399 + "…"),
    ],
    ids=["lines", "other kinds", "silent", "long"],
)
def test_any_error_is_one_line(error: Exception, said: str) -> None:
    assert one_line(error) == said


def record(message: str, error: Exception | None, process: str = "MainProcess") -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    made = logging.LogRecord("vllm.engine", logging.ERROR, "", 0, message, None, info)
    made.processName = process
    return made


def test_the_last_words_are_the_last_that_do_not_point_elsewhere(tmp_path: Path) -> None:
    words = LastWords(str(tmp_path / "words"))
    assert last_words(tmp_path / "words") is None

    words.emit(record("WorkerProc hit an exception.", ValueError("no memory")))
    words.emit(record("EngineCore failed to start.", RuntimeError("see the stack trace above")))
    words.emit(record("Failed to compile a grammar", ValueError("not why it died")))

    assert last_words(tmp_path / "words") == "no memory"


def test_a_log_line_carries_its_reason_and_no_traceback() -> None:
    line = OneLine().format(record("EngineCore failed to start.", ValueError("no memory"), "EngineCore"))
    assert line == "vllm[EngineCore] ERROR: EngineCore failed to start. no memory"


def test_what_is_said_at_every_start_is_not_said() -> None:
    assert not WithoutHarmless().filter(record("Triton is not installed. And so on.", None))
    assert WithoutHarmless().filter(record("KV cache is full", None))


def test_the_logging_configuration_can_be_used(tmp_path: Path) -> None:
    from logging.config import dictConfig

    config, words = write_config(tmp_path, "ERROR")
    root_of_vllm = logging.getLogger("vllm")
    before = (root_of_vllm.handlers[:], root_of_vllm.level, root_of_vllm.propagate)
    try:
        dictConfig(json.loads(config.read_text()))
        try:
            raise ValueError("no memory")
        except ValueError:
            logging.getLogger("vllm.engine").exception("EngineCore failed to start.")
        assert last_words(words) == "no memory"
    finally:
        root_of_vllm.handlers[:], root_of_vllm.level, root_of_vllm.propagate = before
