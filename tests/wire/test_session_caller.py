"""The calling end of a session, against servers that do what ours never would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from expertmesh.v1.generation_pb2 import Finished
from expertmesh.v1.inference_pb2 import DeltaColumns, SessionFailed, SessionFinished, SessionRequest, SessionResponse
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Foreign, MeshError, Unavailable
from mesh_wire.outlets import StreamOutlet
from mesh_wire.serving import open_channel, serving
from mesh_wire.session_caller import SessionCaller
from support.asking import greedy
from support.mesh import ANYWHERE
from support.waiting import eventually

Answering = Callable[[SessionRequest], AsyncIterator[bytes]]


class Server:
    """Answers each frame as told; keeps what it heard."""

    def __init__(self, answering: Answering) -> None:
        self.heard: list[SessionRequest] = []
        self.sessions = 0
        self.open = 0
        self._answering = answering

    async def session(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        self.sessions += 1
        self.open += 1
        try:
            async for raw in requests:
                request = SessionRequest.FromString(raw)
                self.heard.append(request)
                async for answer in self._answering(request):
                    if answer == HANG_UP:
                        return
                    yield answer
        finally:
            self.open -= 1

    @property
    def cancels(self) -> list[int]:
        return [stream_id for request in self.heard for stream_id in request.cancels]


HANG_UP = b"hang up"


@asynccontextmanager
async def calling(answering: Answering, **more: float) -> AsyncIterator[tuple[SessionCaller, Server]]:
    server = Server(answering)
    handlers = {"Session": grpc.stream_stream_rpc_method_handler(server.session)}
    name = "expertmesh.v1.InferenceService"

    def register(to: grpc.aio.Server) -> None:
        to.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async with (
        serving(register, [name], address=ANYWHERE, grace_s=0) as running,
        open_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        caller = SessionCaller(channel, **more)
        try:
            yield caller, server
        finally:
            await caller.close()


async def ask(caller: SessionCaller) -> StreamOutlet:
    outlet = StreamOutlet()
    await caller.ask(greedy(), outlet, Deadline())
    return outlet


async def refusal(caller: SessionCaller) -> MeshError:
    with pytest.raises(MeshError) as ended:
        await ask(caller)
    return ended.value


def saying(*messages: SessionResponse | bytes) -> Answering:
    async def answer(request: SessionRequest) -> AsyncIterator[bytes]:
        for message in messages:
            yield message if isinstance(message, bytes) else message.SerializeToString()

    return answer


async def ending_well(request: SessionRequest) -> AsyncIterator[bytes]:
    for start in request.starts:
        yield SessionResponse(
            deltas=DeltaColumns(stream_ids=[start.stream_id], texts=["hi"], token_counts=[1], token_ids=[7]),
            finished=[SessionFinished(stream_id=start.stream_id, finished=Finished())],
        ).SerializeToString()


async def never(request: SessionRequest) -> AsyncIterator[bytes]:
    for message in ():
        yield message


NONSENSE = {
    "garbage": b"\xff\xff\xff",
    "ragged columns": SessionResponse(deltas=DeltaColumns(stream_ids=[1], texts=["a", "b"], token_counts=[1])),
    "too few tokens": SessionResponse(deltas=DeltaColumns(stream_ids=[1], texts=["a"], token_counts=[3])),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_ends_the_session_and_leaves_nobody_waiting(nonsense: SessionResponse | bytes) -> None:
    async with calling(saying(nonsense)) as (caller, server):
        errors = await asyncio.gather(*(refusal(caller) for _ in range(3)))

        for error in errors:
            assert isinstance(error, Unavailable)
            assert (error.reason, error.facts) == ("EXPERT_LOST", {"tokens_sent": "0"})
        assert (await refusal(caller)).reason == "EXPERT_LOST"
        assert server.sessions == 2  # a new one each time


async def test_answers_for_strangers_are_ignored() -> None:
    stranger = SessionResponse(
        deltas=DeltaColumns(stream_ids=[99], texts=["who?"], token_counts=[0]),
        finished=[SessionFinished(stream_id=99)],
        failed=[SessionFailed(stream_id=99)],
    )
    own = SessionResponse(finished=[SessionFinished(stream_id=1, finished=Finished(request_id="x"))])
    async with calling(saying(stranger, own)) as (caller, _):
        assert (await ask(caller)).tally.tokens == 0


async def test_a_server_that_ends_the_session_ends_its_requests_and_is_asked_anew() -> None:
    async with calling(saying(HANG_UP)) as (caller, server):
        for sessions in (1, 2, 3):
            assert (await refusal(caller)).reason == "EXPERT_LOST"
            assert server.sessions == sessions


async def test_a_start_that_meets_the_session_s_end_is_lost_with_it() -> None:
    """grpc.aio calls such a write INTERNAL, in place of how the server ended the session."""
    async with calling(saying(HANG_UP)) as (caller, _):

        async def some(pause: int) -> list[MeshError]:
            errors = []
            for _ in range(50):
                errors.append(await refusal(caller))
                for _ in range(pause):
                    await asyncio.sleep(0)
            return errors

        errors = [error for some_of in await asyncio.gather(*map(some, range(20))) for error in some_of]

    assert any("Internal error from Core" in error.message for error in errors), "it never came to that"
    for error in errors:
        assert isinstance(error, Unavailable)
        assert (error.reason, error.facts) == ("EXPERT_LOST", {"tokens_sent": "0"})
        cause = error.__cause__
        assert cause is None or (isinstance(cause, Foreign) and cause.code is grpc.StatusCode.UNAVAILABLE)


async def test_a_failure_that_says_ok_is_a_failure_all_the_same() -> None:
    odd = SessionResponse(failed=[SessionFailed(stream_id=1, status=status_pb2.Status(code=0, message="fine"))])
    async with calling(saying(odd)) as (caller, _):
        error = await refusal(caller)

    assert isinstance(error, Foreign)
    assert error.code is grpc.StatusCode.UNKNOWN


async def test_nobody_listening_is_an_error_at_once() -> None:
    async with calling(never) as (caller, _):
        pass
    async with open_channel("127.0.0.1:1") as channel:
        caller = SessionCaller(channel)
        assert (await refusal(caller)).reason == "EXPERT_LOST"
        await caller.close()


async def test_one_session_serves_many_requests() -> None:
    async with calling(ending_well) as (caller, server):
        outlets = await asyncio.gather(*(ask(caller) for _ in range(50)))

        assert [outlet.tally.tokens for outlet in outlets] == [1] * 50
        assert server.sessions == 1
        ids = [start.stream_id for request in server.heard for start in request.starts]
        assert ids == sorted(set(ids))
        assert not server.cancels


async def test_leaving_sends_a_cancel_and_only_then() -> None:
    async with calling(never) as (caller, server):
        asking = [asyncio.create_task(ask(caller)) for _ in range(3)]
        await eventually(lambda: sum(len(request.starts) for request in server.heard) == 3)

        asking[1].cancel()

        await eventually(lambda: server.cancels == [2])
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_leaving_before_the_start_was_sent_is_harmless() -> None:
    async with calling(never) as (caller, server):
        hasty: asyncio.Task[Any] = asyncio.create_task(ask(caller))
        await asyncio.sleep(0)
        hasty.cancel()
        patient = asyncio.create_task(ask(caller))

        await eventually(lambda: any(start.stream_id == 2 for request in server.heard for start in request.starts))
        patient.cancel()
        await asyncio.wait((hasty, patient))


async def test_closing_ends_what_is_under_way() -> None:
    async with calling(never) as (caller, server):
        asking = asyncio.create_task(refusal(caller))
        await eventually(lambda: server.heard)

        await caller.close()

        assert (await asking).reason == "EXPERT_LOST"


async def test_an_old_session_keeps_what_it_has_and_ends_with_it() -> None:
    async with calling(never, age_s=0.0) as (caller, server):
        asking = []
        for sessions in (1, 2, 3):
            asking.append(asyncio.create_task(ask(caller)))
            await eventually(lambda sessions=sessions: len(server.heard) == sessions)
            assert (server.sessions, server.open) == (sessions, sessions)

        asking[0].cancel()

        await eventually(lambda: server.open == 2)
        assert server.cancels == [1]
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        await eventually(lambda: server.open == 1)  # the one that is in use


async def test_answers_come_whole_while_every_session_is_old_at_once() -> None:
    async with calling(ending_well, age_s=0.0) as (caller, server):
        outlets = await asyncio.gather(*(ask(caller) for _ in range(50)))
        assert [outlet.tally.tokens for outlet in outlets] == [1] * 50
        assert server.sessions == 50
        await eventually(lambda: server.open <= 1)
