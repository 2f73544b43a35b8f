"""`Generate` on an expert: one prompt, one stream."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.expert_pb2 import DescribeRequest
from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Image, Part, Role, Sampling, TokenIds
from mesh_wire.errors import (
    AlreadyExists,
    BadInput,
    Busy,
    DeadlinePassed,
    MeshError,
    NotFound,
    Unavailable,
    Unsupported,
)
from mesh_wire.settings import Simulation
from support.asking import greedy
from support.calls import failure, whole
from support.engines import ByHand, Failing, Firehose
from support.mesh import RunningExpert, running_expert
from support.waiting import eventually

USER, ASSISTANT = Role.ROLE_USER, Role.ROLE_ASSISTANT


@pytest.fixture
async def expert() -> AsyncIterator[RunningExpert]:
    async with running_expert("general", "math", simulation=Simulation(context_length=200)) as expert:
        yield expert


async def test_an_answer_is_deltas_and_one_end(expert: RunningExpert) -> None:
    answer = await whole(expert.inference.Generate(greedy("Why is the sky blue?")))

    assert set(answer.order[:-1]) == {"delta"}
    assert answer.order[-1] == "finished"
    assert (answer.text, answer.token_ids) == expected_answer("general", greedy("Why is the sky blue?"))


async def test_the_end_has_usage_timings_and_a_name(expert: RunningExpert) -> None:
    finished = (await whole(expert.inference.Generate(greedy("one two three")))).finished

    assert finished is not None
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (4, 12)
    assert {field.name for field, _ in finished.timings.ListFields()} == {"queue", "prefill", "decode"}
    assert finished.request_id


async def test_a_stop_string_is_named_at_the_end(expert: RunningExpert) -> None:
    text, _ = expected_answer("general", greedy())
    stop = text[10:13]

    answer = await whole(expert.inference.Generate(greedy(stop=[stop])))

    assert answer.finished is not None
    assert answer.finished.stop_string == stop
    assert answer.text == text[: text.index(stop)]


async def test_the_caller_chooses_among_the_experts(expert: RunningExpert) -> None:
    request = greedy()
    request.expert = "math"

    assert (await whole(expert.inference.Generate(request))).text == expected_answer("math", greedy())[0]


async def test_the_first_expert_answers_when_none_is_named(expert: RunningExpert) -> None:
    assert (await whole(expert.inference.Generate(greedy()))).text == expected_answer("general", greedy())[0]


def chat(*turns: tuple[int, str]) -> GenerateRequest:
    messages = [ChatMessage(role=role, parts=[Part(text=text)]) for role, text in turns]
    return GenerateRequest(chat=Chat(messages=messages))


def sampled(**sampling: Any) -> GenerateRequest:
    return GenerateRequest(prompt="hello", sampling=Sampling(**sampling))


IMAGE = GenerateRequest(
    chat=Chat(messages=[ChatMessage(role=USER, parts=[Part(text="what is this?"), Part(image=Image(uri="a.png"))])])
)
FOREIGN_TOKEN = GenerateRequest(token_ids=TokenIds(ids=[1, 50_000]))
JSON = {"structured_output": {"json_schema": "{not json"}}
BAD = [
    ("no input", GenerateRequest(), "INPUT_MISSING", "input"),
    ("empty prompt", GenerateRequest(prompt=""), "PROMPT_EMPTY", "prompt"),
    ("blank prompt", GenerateRequest(prompt=" \n\t"), "PROMPT_EMPTY", "prompt"),
    ("no tokens", GenerateRequest(token_ids=TokenIds()), "PROMPT_EMPTY", "token_ids.ids"),
    ("empty chat", GenerateRequest(chat=Chat()), "PROMPT_EMPTY", "chat.messages"),
    ("blank turn", chat((USER, " ")), "PROMPT_EMPTY", "chat.messages[0].parts"),
    ("unset role", chat((0, "hi")), "ROLE_UNKNOWN", "chat.messages[0].role"),
    ("unknown role", chat((USER, "hi"), (99, "hi")), "ROLE_UNKNOWN", "chat.messages[1].role"),
    ("assistant last", chat((USER, "hi"), (ASSISTANT, "ho")), "CHAT_INVALID", "chat.messages[1].role"),
    ("image", IMAGE, "IMAGE_UNSUPPORTED", "chat.messages[0].parts[1].image"),
    ("too long", GenerateRequest(prompt="word " * 300), "PROMPT_TOO_LONG", ""),
    ("foreign token", FOREIGN_TOKEN, "TOKEN_OUT_OF_VOCABULARY", "token_ids.ids[1]"),
    ("hot", sampled(temperature=2.1), "SAMPLING_OUT_OF_RANGE", "sampling.temperature"),
    ("nan", sampled(temperature=math.nan), "SAMPLING_OUT_OF_RANGE", "sampling.temperature"),
    ("infinite", sampled(presence_penalty=math.inf), "SAMPLING_OUT_OF_RANGE", "sampling.presence_penalty"),
    ("no mass", sampled(top_p=0), "SAMPLING_OUT_OF_RANGE", "sampling.top_p"),
    ("no answer", sampled(max_new_tokens=0), "SAMPLING_OUT_OF_RANGE", "sampling.max_new_tokens"),
    ("nan bias", sampled(logit_bias={3: math.nan}), "SAMPLING_OUT_OF_RANGE", "sampling.logit_bias[3]"),
    ("contradiction", sampled(min_new_tokens=5, max_new_tokens=4), "SAMPLING_CONTRADICTORY", "sampling.min_new_tokens"),
    ("schema", sampled(**JSON), "STRUCTURE_INVALID", "sampling.structured_output.json_schema"),
    ("17 stops", sampled(stop=["x"] * 17), "STOP_INVALID", "sampling.stop"),
    ("empty stop", sampled(stop=["x", ""]), "STOP_INVALID", "sampling.stop[1]"),
    ("long id", GenerateRequest(prompt="a", request_id="x" * 129), "NAME_INVALID", "request_id"),
    ("line in id", GenerateRequest(prompt="a", request_id="x\ny"), "NAME_INVALID", "request_id"),
    ("unknown expert", GenerateRequest(prompt="a", expert="law"), "EXPERT_UNKNOWN", "expert"),
]


@pytest.mark.parametrize(("request_", "reason", "field"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
async def test_bad_input_gets_its_reason_and_field(
    expert: RunningExpert, request_: GenerateRequest, reason: str, field: str
) -> None:
    error = await failure(expert.inference.Generate(request_))

    assert (error.reason, error.field) == (reason, field)
    assert isinstance(error, {"EXPERT_UNKNOWN": NotFound, "IMAGE_UNSUPPORTED": Unsupported}.get(reason, BadInput))
    assert expert.engine.held == 0


async def test_an_unknown_expert_is_told_the_known_ones(expert: RunningExpert) -> None:
    error = await failure(expert.inference.Generate(GenerateRequest(prompt="a", expert="law")))

    assert error.facts == {"expert": "law", "known": "general, math"}


async def test_a_request_id_is_taken_until_its_answer_ends() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        named = GenerateRequest(prompt="a", request_id="mine")
        first = expert.inference.Generate(named)
        await eventually(lambda: engine.held == 1)

        error = await failure(expert.inference.Generate(named))
        assert isinstance(error, AlreadyExists)
        assert (error.reason, error.field) == ("REQUEST_ID_IN_USE", "request_id")

        engine.say()
        engine.finish()
        assert (await whole(first)).finished
        again = expert.inference.Generate(named)
        await eventually(lambda: engine.held == 1)
        engine.finish()
        assert (await whole(again)).finished


async def test_a_refused_id_does_not_free_the_one_in_use() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        named = GenerateRequest(prompt="a", request_id="mine")
        first = expert.inference.Generate(named)
        await eventually(lambda: engine.held == 1)

        for _ in range(3):
            assert (await failure(expert.inference.Generate(named))).reason == "REQUEST_ID_IN_USE"
        first.cancel()


async def test_a_full_house_says_when_to_come_back() -> None:
    engine = ByHand()
    async with running_expert(engine=engine, max_in_flight=2) as expert:
        inside = [expert.inference.Generate(greedy()) for _ in range(2)]
        await eventually(lambda: engine.held == 2)

        error = await failure(expert.inference.Generate(greedy()))

        assert isinstance(error, Busy)
        assert error.reason == "EXPERT_BUSY"
        assert error.retry_after_s == 0.5
        inside[0].cancel()
        await eventually(lambda: engine.held == 1)
        late = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 2)
        late.cancel()


async def test_a_deadline_that_passes_ends_the_answer_and_frees_the_place() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy(), timeout=0.1)
        await eventually(lambda: engine.held == 1)

        assert isinstance(await failure(call), DeadlinePassed)
        await eventually(lambda: engine.held == 0)


async def test_a_request_without_a_deadline_has_none() -> None:
    engine = Failing(TimeoutError("of the engine's own"))
    async with running_expert(engine=engine) as expert:
        assert (await failure(expert.inference.Generate(greedy()))).reason == "INTERNAL"


@pytest.mark.parametrize("tokens", [0, 1, 3])
async def test_a_caller_that_leaves_frees_its_place(tokens: int) -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        for _ in range(tokens):
            engine.say()
            await call.read()

        call.cancel()

        await eventually(lambda: engine.held == 0)


async def test_a_caller_that_leaves_while_its_pipe_is_full_frees_its_place() -> None:
    engine = Firehose()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        await call.read()
        await eventually(lambda: engine.sent_bytes > 8 * 1024 * 1024)

        call.cancel()

        await eventually(lambda: engine.held == 0)


async def test_a_caller_whose_connection_vanishes_frees_its_place() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        channel = grpc.aio.insecure_channel(expert.target, options=[("grpc.use_local_subchannel_pool", 1)])
        call = type(expert.inference)(channel).Generate(greedy())
        await eventually(lambda: engine.held == 1)

        await channel.close()

        await eventually(lambda: engine.held == 0)
        assert call.cancelled()


async def test_a_slow_reader_gets_fewer_and_longer_deltas() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        for _ in range(50):
            engine.say("so ")
        engine.finish()

        answer = await whole(call)

    assert answer.text == "so " * 50
    assert len(answer.order) < 50


async def test_an_engine_that_dies_ends_open_and_later_calls() -> None:
    engine = ByHand()
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        engine.say()
        assert (await call.read()).delta.text

        engine.die("out of memory")

        error = await failure(call)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.message) == ("ENGINE_DEAD", "out of memory")
        assert error.facts == {"tokens_sent": "1"}


async def test_an_engine_that_stops_without_an_end_counts_as_dead() -> None:
    class Mute(Failing):
        async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncIterator[Any]:  # type: ignore[override]
            for piece in ():
                yield piece

    async with running_expert(engine=Mute(KeyError())) as expert:
        assert (await failure(expert.inference.Generate(greedy()))).reason == "ENGINE_DEAD"


async def test_an_error_after_tokens_arrives_after_them() -> None:
    engine = Failing(BadInput("no", reason="REQUEST_REFUSED"), after_tokens=2)
    async with running_expert(engine=engine) as expert:
        call = expert.inference.Generate(greedy())
        said = ""
        while not said.endswith("word word "):
            said += (await call.read()).delta.text

        assert (await failure(call)).reason == "REQUEST_REFUSED"


async def test_requests_do_not_disturb_each_other(expert: RunningExpert) -> None:
    async def ask(number: int) -> object:
        if number % 3 == 0:
            return await failure(expert.inference.Generate(GenerateRequest()))
        if number % 3 == 1:
            call = expert.inference.Generate(greedy())
            call.cancel()
            return None
        return (await whole(expert.inference.Generate(greedy(f"number {number}")))).text

    answers = await asyncio.gather(*(ask(number) for number in range(30)))

    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert isinstance(answer, MeshError)
        elif number % 3 == 2:
            assert answer == expected_answer("general", greedy(f"number {number}"))[0]


async def test_describe_says_what_is_served(expert: RunningExpert) -> None:
    described = await expert.expert.Describe(DescribeRequest())

    assert [one.name for one in described.experts] == ["general", "math"]
    assert (described.replica, described.engine, described.context_length) == ("a", "simulated", 200)
    assert (described.max_in_flight, described.max_message_bytes) == (128, 4 * 1024 * 1024)
