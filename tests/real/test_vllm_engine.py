"""vLLM itself behind the `Engine` interface, with the small model on this machine's CPU or GPU."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from expert_svc.engine import Chunk, Engine
from expert_svc.vllm_engine import VllmSettings, open_vllm_engine
from expertmesh.v1.generation_pb2 import Choice, GenerateRequest, StructuredOutput
from mesh_wire.errors import BadInput
from mesh_wire.resuming import Delivered
from support.adapters import write_adapter
from support.asking import ask, greedy, vacated
from support.engine_contract import LENGTH, STOP, EngineContract
from support.resuming_contract import ResumingContract
from support.small_model import BASE, SMALL
from support.waiting import eventually

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    # Their own use of their own old names, while they are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|vllm|transformers|jinja2)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|vllm|transformers)"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "odd", base=BASE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(adapter: Path) -> AsyncIterator[Engine]:
    settings = VllmSettings(
        serves={"general": None, "odd": adapter}, engine_args=SMALL, environment={"EXPERTMESH_OF_THIS_ENGINE": "yes"}
    )
    async with open_vllm_engine(settings) as engine:
        yield engine
    del os.environ["EXPERTMESH_OF_THIS_ENGINE"]


async def test_its_processes_have_the_environment_that_is_its_own(engine: Engine) -> None:
    family = psutil.Process().children(recursive=True)
    assert any(child.environ().get("EXPERTMESH_OF_THIS_ENGINE") == "yes" for child in family)


class TestAsAnEngine(EngineContract):
    pass


class TestResuming(ResumingContract):
    pass


CHARACTERS = "naïve 🌊🦜 日本語 👩‍🚀 ends"  # of one to four bytes, several of more than one token


@pytest.mark.parametrize("stop", [[], ["🦜 日"], ["本語 👩", "ends"]], ids=str)
async def test_no_character_is_lost_or_doubled_wherever_the_answer_was_cut(engine: Engine, stop: list[str]) -> None:
    from vllm.sampling_params import SamplingParams

    from expert_svc.vllm_engine.seam import Seam

    tokenizer = engine._llm.get_tokenizer()  # type: ignore[attr-defined]
    prompt, tokens = tokenizer.encode("Say it:\n"), tokenizer.encode(CHARACTERS)
    params = SamplingParams(max_tokens=1000, stop=stop)

    def seam(delivered: Delivered) -> Seam:
        return Seam(tokenizer, delivered.resume(), prompt=prompt, params=params, eos=())

    def drawn(before: Delivered) -> str:
        """Draw the rest after `before`; returns the whole text."""
        sewn = seam(before)
        if sewn.over is not None:
            return before.text + sewn.over.text
        detokenizer, text = sewn._detokenizer, before.text
        for token in tokens[len(before.token_ids) :]:
            stopped = detokenizer.update([token], False) is not None
            text += detokenizer.get_next_output_text(finished=stopped, delta=True)
            before.add("", [token])
            if stopped:
                return text
        return text + detokenizer.get_next_output_text(finished=True, delta=True)

    whole = drawn(Delivered())
    assert whole == (CHARACTERS if not stop else CHARACTERS[: min(CHARACTERS.find(one) for one in stop)])
    for cut in range(1, len(tokens)):
        before, uncut = Delivered(), seam(Delivered())._detokenizer
        for token in tokens[:cut]:
            if uncut.update([token], False) is not None:
                break
            before.add(uncut.get_next_output_text(finished=False, delta=True), [token])
        else:
            assert drawn(before) == whole, f"cut after {cut}"


async def test_the_engine_describes_itself(engine: Engine) -> None:
    described = engine.description

    assert [(served.name, served.adapter) for served in described.experts] == [("general", ""), ("odd", "odd")]
    assert (described.engine, described.base_model, described.dtype) == ("vllm", "smollm2-135m-instruct", "bfloat16")
    assert (described.context_length, described.vocabulary_size, described.max_running) == (1024, 49152, 4)
    assert described.kv_cache_tokens > 1024
    assert described.tensor_parallel_size == 1


async def test_an_adapter_is_an_expert_of_its_own(engine: Engine) -> None:
    general, odd, again = [await ask(engine, greedy(), expert) for expert in ("general", "odd", "general")]

    assert general.text == again.text != odd.text


async def test_experts_are_answered_in_one_batch(engine: Engine) -> None:
    """Each as when it is alone, while the model is sure: near a tie, who else is in the batch tips a sum in bf16."""
    counting = greedy("Count to 20: 1, 2, 3, 4, 5, 6,", max_new_tokens=8)
    alone = [await ask(engine, counting, expert) for expert in ("general", "odd")]
    batch = await asyncio.gather(*(ask(engine, counting, expert) for expert in ("general", "odd") * 2))

    assert batch[0].text == batch[2].text == alone[0].text
    assert batch[1].token_ids[0] == batch[3].token_ids[0] == alone[1].token_ids[0]  # it is sure of the first alone
    assert alone[0].text not in (batch[1].text, batch[3].text)


async def test_more_requests_than_places_wait(engine: Engine) -> None:
    asking = [asyncio.create_task(ask(engine, greedy(max_new_tokens=30, ignore_eos=True))) for _ in range(7)]

    await eventually(lambda: (engine.board.latest.running, engine.board.latest.waiting) == (4, 3))
    assert engine.board.latest.queued_prompt_tokens == 3 * (await asking[0]).ended.prompt_tokens
    await asyncio.gather(*asking)


async def test_a_waiting_request_that_leaves_is_forgotten(engine: Engine) -> None:
    asking = [asyncio.create_task(ask(engine, greedy(max_new_tokens=200, ignore_eos=True))) for _ in range(6)]
    await eventually(lambda: engine.board.latest.waiting == 2)

    for leaving in reversed(asking):
        leaving.cancel()

    await eventually(lambda: vacated(engine.board.latest), within_s=0.5)
    assert (await ask(engine, greedy())).text


async def test_a_repeated_prompt_is_found_in_the_cache(engine: Engine) -> None:
    request = greedy("All happy families are alike. " * 60)
    await ask(engine, request)

    assert (await ask(engine, request)).ended.cached_prompt_tokens > 100


async def test_a_seed_makes_drawing_reproducible(engine: Engine) -> None:
    drawn = greedy(temperature=1.5, seed=2**64 - 1)

    assert (await ask(engine, drawn)).text == (await ask(engine, drawn)).text


async def test_a_biased_token_is_drawn(engine: Engine) -> None:
    assert set((await ask(engine, greedy(logit_bias={260: 100.0}))).token_ids) == {260}


async def test_extreme_but_permitted_values_harm_nobody(engine: Engine) -> None:
    extreme = greedy(
        temperature=0.001, top_k=2**32 - 1, top_p=1e-6, min_p=1, seed=2**64 - 1, logprobs=20, stop=["\U0001f999" * 256]
    )

    assert (await ask(engine, extreme)).ended.reason in (LENGTH, STOP)


async def test_a_long_chat_is_read_without_stopping_others(engine: Engine) -> None:
    with pytest.raises(BadInput) as refused:
        await ask(engine, GenerateRequest(prompt="word " * 40_000))

    assert refused.value.reason == "PROMPT_TOO_LONG"
    assert int(refused.value.facts["prompt_tokens"]) > 40_000


def structured(**form: object) -> GenerateRequest:
    return greedy("Is water wet?", max_new_tokens=60, structured_output=StructuredOutput(**form))


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ({"choice": Choice(options=["yes", 'say "no"'])}, lambda text: text in ("yes", 'say "no"')),
        ({"regex": "[0-9]{3}-[a-z]"}, lambda text: len(text) == 5 and text[:3].isdigit()),
        ({"grammar": 'root ::= "wet" | "dry"'}, lambda text: text in ("wet", "dry")),
        (
            {"json_schema": '{"type":"object","properties":{"wet":{"type":"boolean"}},"required":["wet"]}'},
            lambda text: isinstance(json.loads(text)["wet"], bool),
        ),
    ],
    ids=["choice", "regex", "grammar", "json_schema"],
)
async def test_an_answer_keeps_to_its_form(
    engine: Engine, form: dict[str, object], holds: Callable[[str], bool]
) -> None:
    assert holds((await ask(engine, structured(**form))).text)


@pytest.mark.parametrize(
    "form",
    [
        {"json_schema": "{"},
        {"json_schema": "[]"},
        {"json_schema": '{"type": "objekt"}'},
        {"json_schema": '{"$ref": "#/nowhere"}'},
        {"json_schema": '{"type": "integer", "multipleOf": 3}'},
        {"json_schema": '{"enum": []}'},
        {"json_schema": '{"const": "\\ud800"}'},
        {"json_schema": '{"items":' * 200 + "{}" + "}" * 200},
        {"regex": "(["},
        {"regex": "*a"},
        {"regex": "(?=a)b"},
        {"regex": r"(a)\1"},
        {"regex": "a\0"},
        {"grammar": "root ::= "},
        {"grammar": 'other ::= "a"'},
        {"grammar": "root ::= nothing"},
        {"grammar": "root ::= root"},
        {"grammar": "!!!"},
        {"grammar": " "},
        {},
    ],
    ids=str,
)
async def test_an_unusable_form_is_refused_and_harms_nobody(engine: Engine, form: dict[str, str]) -> None:
    async with aclosing(
        engine.generate(greedy(max_new_tokens=200, ignore_eos=True), expert="general", request_id="bystander")
    ) as bystander:
        await anext(bystander)
        with pytest.raises(BadInput) as refused:
            await ask(engine, structured(**form))
        assert isinstance(await anext(bystander), Chunk)

    assert refused.value.reason == "STRUCTURE_INVALID"
    assert refused.value.field == ".".join(["sampling.structured_output", *form])
    assert "\n" not in refused.value.message
