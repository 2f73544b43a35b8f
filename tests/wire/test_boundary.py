"""What a server does with bytes that are no message, with too many of them, and with its own faults."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.inference_pb2 import SessionRequest
from mesh_wire.errors import BadInput, Foreign, Internal, MeshError, NotFound
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.engines import Failing
from support.mesh import ANYWHERE, RunningExpert, running_expert
from support.waiting import eventually

GARBAGE = b"\xff\xff\xff\xff not a message"
MARKER = "xyzzy"


@pytest.fixture
async def expert() -> AsyncIterator[RunningExpert]:
    async with running_expert(max_message_bytes=10_000) as expert:
        yield expert


def raw(expert: RunningExpert, method: str, kind: str = "unary_stream") -> Any:
    """A stub that sends bytes as they are."""
    return getattr(expert.channel, kind)(f"/expertmesh.v1.{method}")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("InferenceService/Generate", "unary_stream"),
        ("ExpertService/Describe", "unary_unary"),
        ("ExpertService/WatchLoad", "unary_stream"),
    ],
)
async def test_bytes_that_are_no_message_are_refused_with_a_reason(
    expert: RunningExpert, method: str, kind: str
) -> None:
    error = await failure(raw(expert, method, kind)(GARBAGE))

    assert isinstance(error, BadInput)
    assert error.reason == "MESSAGE_MALFORMED"


async def test_text_that_is_not_utf_8_is_malformed(expert: RunningExpert) -> None:
    error = await failure(raw(expert, "InferenceService/Generate")(b"\x12\x02\xff\xfe"))

    assert error.reason == "MESSAGE_MALFORMED"


async def test_garbage_ends_its_own_session_and_no_other(expert: RunningExpert) -> None:
    other, bad = Talk(expert.inference), raw(expert, "InferenceService/Session", "stream_stream")()
    await other.start(1, greedy())
    await other.until_text(1)
    await bad.write(SessionRequest().SerializeToString())
    await bad.write(GARBAGE)

    assert (await failure(bad)).reason == "MESSAGE_MALFORMED"

    await other.until_over(1)
    await other.start(2, greedy())
    await other.until_over(2)
    assert other.answers[2].finished


async def test_garbage_ends_what_runs_in_its_session(expert: RunningExpert) -> None:
    expert.engine.stall()
    bad = raw(expert, "InferenceService/Session", "stream_stream")()
    await bad.write(SessionRequest(starts=[{"stream_id": 1, "request": greedy()}]).SerializeToString())
    await eventually(lambda: expert.engine.held == 1)

    await bad.write(GARBAGE)

    assert (await failure(bad)).reason == "MESSAGE_MALFORMED"
    await eventually(lambda: expert.engine.held == 0)


async def test_a_message_over_the_limit_is_refused_with_both_sizes(expert: RunningExpert) -> None:
    request = GenerateRequest(prompt="word " * 3000)

    error = await failure(expert.inference.Generate(request))

    assert isinstance(error, BadInput)
    assert error.reason == "MESSAGE_TOO_LARGE"
    assert error.facts == {"bytes": str(request.ByteSize()), "limit_bytes": "10000"}


async def test_a_message_just_under_the_limit_is_taken(expert: RunningExpert) -> None:
    request = greedy("word " * 1990)
    assert 9_900 < request.ByteSize() < 10_000

    assert (await whole(expert.inference.Generate(request))).finished


async def test_a_message_far_over_the_limit_is_refused_by_grpc_itself(expert: RunningExpert) -> None:
    error = await failure(expert.inference.Generate(GenerateRequest(prompt="word " * 30_000)))

    assert isinstance(error, Foreign)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_fault_of_ours_is_logged_and_named_by_its_request(caplog: pytest.LogCaptureFixture) -> None:
    async with running_expert(engine=Failing(KeyError(MARKER))) as expert:
        error = await failure(expert.inference.Generate(GenerateRequest(prompt="a", request_id="mine")))

    assert isinstance(error, Internal)
    assert (error.reason, error.facts) == ("INTERNAL", {"request_id": "mine"})
    assert MARKER not in str(error)
    assert "mine" in caplog.text
    assert MARKER in caplog.text


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_handler_that_explodes_names_an_id_under_which_the_log_has_it(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with exploding(RuntimeError(MARKER)) as channel:
        error = await failure(getattr(channel, kind)(f"/test/{kind}")(b""))

    assert isinstance(error, Internal)
    assert MARKER not in str(error)
    assert MARKER in caplog.text
    assert error.facts["request_id"] in caplog.text


async def test_an_error_with_a_long_text_still_arrives_with_its_reason() -> None:
    text = "no such grammar: " + "é\n" * 50_000
    long = BadInput(text, reason="STRUCTURE_INVALID", field="sampling", told="x" * 50_000)
    async with exploding(long) as channel:
        error = await failure(channel.unary_unary("/test/unary_unary")(b""))

    assert isinstance(error, BadInput)
    assert (error.reason, error.field) == ("STRUCTURE_INVALID", "sampling")
    assert error.message.startswith("no such grammar: é")


async def test_an_error_in_another_script_arrives_unharmed() -> None:
    async with exploding(NotFound("没有\nsuch «thing»", reason="EXPERT_UNKNOWN", known="数学")) as channel:
        error = await failure(channel.unary_stream("/test/unary_stream")(b""))

    assert (error.message, error.facts) == ("没有\nsuch «thing»", {"known": "数学"})


async def test_health_answers_as_its_own_servicer_says(expert: RunningExpert) -> None:
    check = expert.channel.unary_unary("/grpc.health.v1.Health/Check")

    error = await failure(check(health_pb2.HealthCheckRequest(service="nobody").SerializeToString()))

    assert error.code is grpc.StatusCode.NOT_FOUND


def exploding(error: Exception) -> Any:
    """A channel to a server whose handlers raise `error`."""
    from contextlib import asynccontextmanager

    from mesh_wire.serving import open_channel, serving

    async def explode(request: bytes, context: object) -> bytes:
        raise error

    async def explode_streaming(request: bytes, context: object) -> AsyncIterator[bytes]:
        if isinstance(error, MeshError | RuntimeError):
            raise error
        yield b""

    handlers = {
        "unary_unary": grpc.unary_unary_rpc_method_handler(explode),
        "unary_stream": grpc.unary_stream_rpc_method_handler(explode_streaming),
    }

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))

    @asynccontextmanager
    async def running() -> AsyncIterator[grpc.aio.Channel]:
        async with (
            serving(register, ["test"], address=ANYWHERE, grace_s=0) as server,
            open_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            yield channel

    return running()
