"""`Session` on an expert: many prompts over one stream."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from expert_svc.simulated_engine import expected_answer
from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.inference_pb2 import SessionRequest, SessionStart
from support.asking import greedy
from support.calls import Talk, whole
from support.engines import ByHand, Firehose
from support.mesh import RunningExpert, running_expert
from support.waiting import eventually


@pytest.fixture
async def expert() -> AsyncIterator[RunningExpert]:
    async with running_expert() as expert:
        yield expert


@pytest.fixture
async def engine() -> ByHand:
    return ByHand()


@pytest.fixture
async def by_hand(engine: ByHand) -> AsyncIterator[RunningExpert]:
    async with running_expert(engine=engine, max_in_flight=3) as expert:
        yield expert


def named(request_id: str) -> GenerateRequest:
    return GenerateRequest(prompt="hello", request_id=request_id)


async def test_many_requests_are_answered_side_by_side(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    for number in range(1, 9):
        await talk.start(number, greedy(f"number {number}", logprobs=2 if number % 2 else None))
    await talk.until_over(*range(1, 9))

    for number in range(1, 9):
        answer = talk.answers[number]
        assert answer.order[-1] == "finished"
        assert (answer.text, answer.token_ids) == expected_answer("general", greedy(f"number {number}"))
    await talk.hang_up()
    assert await talk.call.code() is grpc.StatusCode.OK


async def test_generate_and_session_say_the_same(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    await talk.start(1, greedy())
    await talk.until_over(1)

    assert talk.answers[1].text == (await whole(expert.inference.Generate(greedy()))).text


async def test_a_step_of_many_requests_is_one_message(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    for number in (1, 2, 3):
        await talk.start(number, named(f"r{number}"))
    await eventually(lambda: engine.held == 3)

    engine.say()
    assert await talk.read()

    assert {number: answer.text for number, answer in talk.answers.items()} == dict.fromkeys((1, 2, 3), "word ")
    talk.call.cancel()


async def test_starts_in_one_message_all_begin(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    await talk.call.write(SessionRequest(starts=[SessionStart(stream_id=n, request=greedy()) for n in (1, 2, 3)]))

    await eventually(lambda: engine.held == 3)
    talk.call.cancel()


async def test_a_failure_leaves_the_others_alone(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"))
    await talk.start(2, GenerateRequest())
    await talk.until_over(2)

    assert talk.answers[2].error is not None
    assert talk.answers[2].error.reason == "INPUT_MISSING"
    await eventually(lambda: engine.held == 1)
    engine.say()
    engine.finish()
    await talk.until_over(1)
    assert talk.answers[1].text == "word "


async def test_a_start_without_a_request_has_no_input(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    await talk.call.write(SessionRequest(starts=[SessionStart(stream_id=1)]))
    await talk.until_over(1)

    assert talk.answers[1].error is not None
    assert talk.answers[1].error.reason == "INPUT_MISSING"


async def test_a_cancelled_request_frees_its_place_and_is_not_heard_of_again(
    by_hand: RunningExpert, engine: ByHand
) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"))
    await talk.start(2, named("two"))
    await eventually(lambda: engine.held == 2)

    await talk.cancel(1)
    await eventually(lambda: engine.held == 1)
    engine.say()
    engine.finish()
    await talk.hang_up()

    assert 1 not in talk.answers
    assert talk.answers[2].text == "word "


async def test_a_cancel_takes_back_what_was_not_sent_yet(expert: RunningExpert) -> None:
    """Start and cancel in one message: nothing may be heard of a request that nobody wants."""
    talk = Talk(expert.inference)
    await talk.call.write(SessionRequest(starts=[SessionStart(stream_id=1, request=greedy())], cancels=[1]))
    await talk.start(2, greedy())
    await talk.hang_up()

    assert set(talk.answers) == {2}
    assert talk.answers[2].finished


async def test_a_cancel_of_what_has_ended_is_ignored(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    await talk.start(1, greedy())
    await talk.until_over(1)
    await talk.cancel(1)
    await talk.cancel(1)
    await talk.hang_up()

    assert talk.answers[1].error is None


@pytest.mark.parametrize("stream_id", [0, 7])
async def test_a_cancel_of_what_never_began_is_answered(expert: RunningExpert, stream_id: int) -> None:
    talk = Talk(expert.inference)
    await talk.start(1, greedy())
    await talk.cancel(stream_id)
    await talk.until_over(stream_id, 1)

    error = talk.answers[stream_id].error
    assert error is not None
    assert (error.reason, error.field) == ("STREAM_UNKNOWN", "cancels")
    assert talk.answers[1].finished


async def test_a_stream_id_used_again_ends_that_stream(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"))
    await talk.start(2, named("two"))
    await eventually(lambda: engine.held == 2)

    await talk.start(1, named("again"))
    await talk.until_over(1)

    error = talk.answers[1].error
    assert error is not None
    assert (error.reason, error.field) == ("STREAM_REUSED", "starts.stream_id")
    await eventually(lambda: engine.held == 1)
    engine.finish()
    await talk.until_over(2)
    assert [seen.request_id for seen in engine.requests] == ["one", "two"]


@pytest.mark.parametrize("stream_id", [0, 1, 4])
async def test_stream_ids_must_rise(expert: RunningExpert, stream_id: int) -> None:
    talk = Talk(expert.inference)
    await talk.start(5, greedy())
    await talk.start(stream_id, greedy())
    await talk.until_over(stream_id, 5)

    error = talk.answers[stream_id].error
    assert error is not None
    assert error.reason == "STREAM_REUSED"
    assert talk.answers[5].finished


async def test_each_request_has_its_own_deadline(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"), timeout_s=0.1)
    await talk.start(2, named("two"), timeout_s=600)
    await talk.start(3, named("three"))
    await eventually(lambda: engine.held == 3)
    engine.say(to="one")
    await talk.until_over(1)

    error = talk.answers[1].error
    assert error is not None
    assert (error.reason, error.facts) == ("DEADLINE_PASSED", {"tokens_sent": "1"})
    await eventually(lambda: engine.held == 2)
    engine.finish()
    await talk.until_over(2, 3)


@pytest.mark.parametrize("timeout", [Duration(), Duration(seconds=-5), Duration(nanos=-1), Duration(seconds=-(2**63))])
async def test_a_deadline_that_has_passed_spends_nothing(
    by_hand: RunningExpert, engine: ByHand, timeout: Duration
) -> None:
    talk = Talk(by_hand.inference)
    start = SessionStart(stream_id=1, request=greedy(), timeout=timeout)
    await talk.call.write(SessionRequest(starts=[start]))
    await talk.until_over(1)

    error = talk.answers[1].error
    assert error is not None
    assert (error.reason, error.facts) == ("DEADLINE_PASSED", {"tokens_sent": "0"})
    assert not engine.requests


async def test_a_deadline_beyond_all_time_is_none(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    start = SessionStart(stream_id=1, request=greedy(), timeout=Duration(seconds=2**63 - 1, nanos=2**31 - 1))
    await talk.call.write(SessionRequest(starts=[start]))
    await talk.until_over(1)

    assert talk.answers[1].finished


async def test_garbage_for_trace_context_is_no_reason_to_fail(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    await talk.start(1, greedy(), traceparent="00-zz-\n", tracestate="=,=;\0")
    await talk.until_over(1)

    assert talk.answers[1].finished


@pytest.mark.parametrize("caller", ["x" * 129, "a\nb"])
async def test_a_caller_s_name_must_be_fit_for_a_log(expert: RunningExpert, caller: str) -> None:
    talk = Talk(expert.inference)
    await talk.start(1, greedy(), caller=caller)
    await talk.until_over(1)

    error = talk.answers[1].error
    assert error is not None
    assert (error.reason, error.field) == ("NAME_INVALID", "caller")


async def test_a_request_id_is_taken_across_sessions(by_hand: RunningExpert, engine: ByHand) -> None:
    one, two = Talk(by_hand.inference), Talk(by_hand.inference)
    await one.start(1, named("mine"))
    await eventually(lambda: engine.held == 1)
    await two.start(1, named("mine"))
    await two.until_over(1)

    error = two.answers[1].error
    assert error is not None
    assert error.reason == "REQUEST_ID_IN_USE"
    one.call.cancel()


async def test_a_cancelled_request_s_id_is_free_for_its_retry(by_hand: RunningExpert, engine: ByHand) -> None:
    """The two may even share a message, which is what a router sends when its caller hangs up and asks again."""
    talk = Talk(by_hand.inference)
    await talk.start(1, named("mine"))
    await eventually(lambda: engine.held == 1)

    retry = SessionStart(stream_id=2, request=named("mine"))
    await talk.call.write(SessionRequest(starts=[retry], cancels=[1]))

    await eventually(lambda: len(engine.requests) == 2)
    engine.say()
    engine.finish()
    await talk.until_over(2)
    assert talk.answers[2].text == "word "


async def test_a_full_house_refuses_the_request_and_not_the_session(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    for number in range(1, 6):
        await talk.start(number, named(f"r{number}"))
    await talk.until_over(4, 5)

    errors = [talk.answers[number].error for number in (4, 5)]
    assert [error and (error.reason, error.retry_after_s) for error in errors] == [("EXPERT_BUSY", 0.5)] * 2
    engine.finish()
    await talk.until_over(1, 2, 3)


async def test_half_closing_lets_running_requests_finish(by_hand: RunningExpert, engine: ByHand) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"))
    await talk.start(2, named("two"))
    await eventually(lambda: engine.held == 2)
    await talk.call.done_writing()

    engine.finish("one")
    await talk.until_over(1)
    engine.say()
    engine.finish()
    await talk.until_over(2)

    assert talk.answers[2].text == "word "
    assert not await talk.read()


async def test_a_session_without_requests_ends_well(expert: RunningExpert) -> None:
    talk = Talk(expert.inference)
    await talk.hang_up()

    assert await talk.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("tokens", [0, 2])
async def test_a_caller_that_leaves_ends_all_its_requests(by_hand: RunningExpert, engine: ByHand, tokens: int) -> None:
    talk = Talk(by_hand.inference)
    for number in (1, 2, 3):
        await talk.start(number, named(f"r{number}"))
    await eventually(lambda: engine.held == 3)
    for _ in range(tokens):
        engine.say()
        await talk.read()

    talk.call.cancel()

    await eventually(lambda: engine.held == 0)


async def test_a_caller_that_leaves_with_its_pipe_full_ends_all_its_requests() -> None:
    engine = Firehose()
    async with running_expert(engine=engine) as expert:
        talk = Talk(expert.inference)
        await talk.start(1, greedy())
        await talk.start(2, greedy())
        await talk.until_text(1)
        await eventually(lambda: engine.sent_bytes > 8 * 1024 * 1024)

        talk.call.cancel()

        await eventually(lambda: engine.held == 0)


async def test_a_cancel_is_heard_while_the_pipe_is_full() -> None:
    """The reader of frames does not wait for the writer of answers."""
    engine = Firehose()
    async with running_expert(engine=engine) as expert:
        talk = Talk(expert.inference)
        await talk.start(1, greedy())
        await eventually(lambda: engine.sent_bytes > 8 * 1024 * 1024)

        await talk.cancel(1)

        await eventually(lambda: engine.held == 0)
        talk.call.cancel()


async def test_an_engine_that_dies_ends_its_requests_and_not_the_session(
    by_hand: RunningExpert, engine: ByHand
) -> None:
    talk = Talk(by_hand.inference)
    await talk.start(1, named("one"))
    await talk.start(2, named("two"))
    await eventually(lambda: engine.held == 2)
    engine.say(to="one")
    await talk.until_text(1)

    engine.die()
    await talk.until_over(1, 2)

    errors = [talk.answers[number].error for number in (1, 2)]
    told = [error and (error.reason, error.facts["tokens_sent"]) for error in errors]
    assert told == [("ENGINE_DEAD", "1"), ("ENGINE_DEAD", "0")]


async def test_the_requests_of_a_long_session_leave_nothing_behind(expert: RunningExpert) -> None:
    """A router's session lives as long as the router: what a request leaves in it would add up."""
    from mesh_wire.sessions import Session

    talk = Talk(expert.inference)
    for number in range(1, 21):
        cancels = [number] if number % 2 else []
        start = SessionStart(stream_id=number, request=greedy(max_new_tokens=2))
        await talk.call.write(SessionRequest(starts=[start], cancels=cancels))
    await talk.until_over(*range(2, 21, 2))

    import gc

    # By `type`: `isinstance` asks each object for its class, and some of torch's warn when asked for anything.
    seen = [one for one in gc.get_objects() if type(one) is Session and one._highest == 20]
    assert len(seen) == 1
    await eventually(lambda: not seen[0]._open)
    await talk.hang_up()
    await asyncio.sleep(0)
