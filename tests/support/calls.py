"""Calling a server and keeping what it says, in tests."""

from collections.abc import AsyncIterable, Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, GenerateResponse, RouteChosen
from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse, SessionStart
from mesh_wire.deadlines import duration
from mesh_wire.errors import MeshError, error_of, error_of_call
from mesh_wire.session_outbox import rows_of


@dataclass
class Whole:
    """One whole answer, in the words of either RPC."""

    order: list[str] = field(default_factory=list)  # names of the events
    route: RouteChosen | None = None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finished: Finished | None = None
    error: MeshError | None = None

    @property
    def over(self) -> bool:
        return self.finished is not None or self.error is not None

    def take(self, event: GenerateResponse) -> None:
        name = event.WhichOneof("event")
        assert name is not None
        self.order.append(name)
        match name:
            case "route":
                self.route = event.route
            case "delta":
                self.text += event.delta.text
                self.token_ids.extend(event.delta.token_ids)
            case "finished":
                self.finished = event.finished


async def whole(call: AsyncIterable[GenerateResponse]) -> Whole:
    """Return what a `Generate` call answers; raises its failure as a `MeshError`."""
    answer = Whole()
    try:
        async for event in call:
            answer.take(event)
    except grpc.RpcError as error:
        raise error_of_call(error) from None
    return answer


async def outcome(call: Any) -> Whole | MeshError:
    """Read an answer to its end, or to its error."""
    try:
        return await whole(call)
    except MeshError as error:
        return error


async def failure(call: "AsyncIterable[Any] | Awaitable[Any]") -> MeshError:
    """Return the error with which a call ends."""
    try:
        if isinstance(call, AsyncIterable):
            while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]  # it is a stream's call
                pass
        else:
            await call
    except grpc.RpcError as error:
        return error_of_call(error)
    raise AssertionError("the call ended well")


class Talk:
    """One `Session`, spoken by hand."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.Session()
        self.answers: dict[int, Whole] = {}
        self.messages = 0

    async def start(
        self, stream_id: int, request: GenerateRequest, *, timeout_s: float | None = None, **more: str
    ) -> None:
        timeout = None if timeout_s is None else duration(timeout_s)
        start = SessionStart(stream_id=stream_id, request=request, timeout=timeout, **more)
        await self.call.write(SessionRequest(starts=[start]))

    async def cancel(self, *stream_ids: int) -> None:
        await self.call.write(SessionRequest(cancels=stream_ids))

    async def read(self) -> bool:
        """Take one message; False at the session's end. Raises grpc.RpcError when it ends badly."""
        message = await self.call.read()
        if message is grpc.aio.EOF:
            return False
        self.messages += 1
        self._take(message)
        return True

    async def until_over(self, *stream_ids: int) -> None:
        """Read until these streams have ended."""
        while not all(one in self.answers and self.answers[one].over for one in stream_ids):
            assert await self.read(), "the session ended too early"

    async def until_text(self, stream_id: int) -> None:
        """Read until a stream has had text."""
        while not (stream_id in self.answers and self.answers[stream_id].text):
            assert await self.read(), "the session ended too early"

    async def hang_up(self) -> None:
        """Half-close, and read to the end."""
        await self.call.done_writing()
        while await self.read():
            pass

    def _take(self, message: SessionResponse) -> None:
        """Take a message apart in the contract's order; nothing may follow a stream's end."""
        for routed in message.routes:
            self._of(routed.stream_id).take(GenerateResponse(route=routed.route))
        for stream_id, text, token_ids, logprobs in rows_of(message.deltas):
            delta = {"text": text, "token_ids": token_ids, "logprobs": logprobs}
            self._of(stream_id).take(GenerateResponse(delta=delta))
        for ended in message.finished:
            self._of(ended.stream_id).take(GenerateResponse(finished=ended.finished))
        for failed in message.failed:
            self._of(failed.stream_id).error = error_of(failed.status)

    def _of(self, stream_id: int) -> Whole:
        return self.answers.setdefault(stream_id, Whole())
