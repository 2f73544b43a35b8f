"""The boundary between gRPC and our handlers: messages are parsed, streams closed and errors named here."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgenfunction
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh_wire.errors import DETAILS_KEY, BadInput, Internal, MeshError, status_of
from mesh_wire.turns import Turns

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Trailer = Callable[[], Sequence[tuple[str, str | bytes]]]
Admit = Callable[[str, Context], None]  # is given a method's full name; raises MeshError
HEALTH = "/grpc.health.v1.Health/"  # who watches a service needs not be known to it


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands where a message should be; raised once a handler's status can be set."""

    error: MeshError


class Boundary(grpc.aio.ServerInterceptor):
    """Lets handlers be plain async functions and generators that raise `MeshError`.

    - Bytes that are no message, or too many of them, end their call with a reason; gRPC would say INTERNAL.
    - A generator handler is driven here, under `aclosing`: when the caller leaves while a write is blocked, its
      `finally` blocks run at once, in its own task.
    - A `MeshError` becomes the call's status; any other exception keeps its traceback in our log and reaches the
      caller as INTERNAL, with an id that stands in both.

    - Streams of one answer each write in turns; a session's few, large messages need none.
    - `admit` is asked before each handler, but for health checks: whether the call may come in.
    - Whatever way a call ends, its trailer tells what `trailer` returns then.

    Handlers that write for themselves, such as the stock health servicer's `Watch`, pass through untouched.
    """

    def __init__(self, max_message_bytes: int, trailer: Trailer = tuple, admit: Admit | None = None) -> None:
        self._admit = admit
        self._max_message_bytes = max_message_bytes
        self._trailer = trailer
        self._turns = Turns()
        self._wrapped: dict[Any, Any] = {}  # gRPC asks for each call; the answer is the same for each method

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":  # generic in its stubs alone
        handler = await continuation(details)
        if handler is None:
            return None
        if handler not in self._wrapped:
            self._wrapped[handler] = self._wrap(handler, details.method)
        return self._wrapped[handler]  # type: ignore[no-any-return]  # grpcio's own classes are untyped

    def _wrap(self, handler: Any, method: str) -> Any:
        admit = None if self._admit is None or method.startswith(HEALTH) else partial(self._admit, method)
        parse = self._parser(handler.request_deserializer)
        if handler.unary_unary is not None:
            inner = handler.unary_unary
            one = _unary(inner, self._trailer, admit)
            return grpc.unary_unary_rpc_method_handler(one, parse, handler.response_serializer)
        if handler.unary_stream is not None and isasyncgenfunction(handler.unary_stream):
            driven = _driven(handler.unary_stream, _checked, self._turns, self._trailer, admit)
            return grpc.unary_stream_rpc_method_handler(driven, parse, handler.response_serializer)
        if handler.stream_stream is not None and isasyncgenfunction(handler.stream_stream):
            driven = _driven(handler.stream_stream, _each_checked, None, self._trailer, admit)
            return grpc.stream_stream_rpc_method_handler(driven, parse, handler.response_serializer)
        return handler if admit is None else None  # whoever is to be asked for cannot be, in a handler of that kind

    def _parser(self, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        if parse is None:
            return None
        limit = self._max_message_bytes

        def parsed(raw: bytes) -> Any:
            if len(raw) > limit:
                return _Unreadable(
                    BadInput(
                        f"the message has {len(raw)} bytes, the limit is {limit}",
                        reason="MESSAGE_TOO_LARGE",
                        bytes=str(len(raw)),
                        limit_bytes=str(limit),
                    )
                )
            try:
                return parse(raw)
            except DecodeError:
                return _Unreadable(BadInput("the bytes are not the expected message", reason="MESSAGE_MALFORMED"))

        return parsed


def _checked(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise request.error
    return request


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    async for request in requests:
        yield _checked(request)


def _unary(
    inner: Callable[..., Awaitable[Any]], trailer: Trailer, admit: Callable[[Context], None] | None
) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            if admit is not None:
                admit(context)
            answer = await inner(_checked(request), context)
            _tell(context, trailer)
            return answer
        except MeshError as error:
            failure = error.alone()
        except grpc.aio.AbortError:  # a stock servicer, such as health, has set its status itself
            raise
        except grpc.aio.InternalError:
            raise _left() from None
        except Exception:
            failure = _logged()
        return await _abort(context, failure, trailer)

    return call


def _driven(
    inner: Callable[..., AsyncGenerator[Any, None]],
    check: Callable[[Any], Any],
    turns: Turns | None,
    trailer: Trailer,
    admit: Callable[[Context], None] | None,
) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> None:
        try:
            if admit is not None:
                admit(context)
            async with aclosing(inner(check(request), context)) as responses:
                async for response in responses:
                    if turns is None:
                        await context.write(response)
                        continue
                    turn = await turns.take()
                    try:
                        await context.write(response)
                    finally:
                        turns.give_back(turn)
            _tell(context, trailer)
            return
        except MeshError as error:
            failure = error.alone()
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            raise _left() from None
        except Exception:
            failure = _logged()
        await _abort(context, failure, trailer)

    return call


def _logged() -> Internal:
    """Log the exception being handled; returns what its caller is told."""
    request_id = uuid.uuid4().hex
    log.exception("call %s failed", request_id)
    return Internal("a fault of the server", reason="INTERNAL", request_id=request_id)


def _tell(context: grpc.aio.ServicerContext[Any, Any], trailer: Trailer) -> None:
    if told := trailer():
        context.set_trailing_metadata((*context.trailing_metadata(), *told))


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError, trailer: Trailer) -> None:
    status = status_of(error)
    told = (*context.trailing_metadata(), (DETAILS_KEY, status.SerializeToString()), *trailer())
    try:
        await context.abort(error.code, status.message, told)
    except grpc.aio.InternalError:
        raise _left() from None


def _left() -> asyncio.CancelledError:
    """Return what says that the caller has left, where a write has found that out before gRPC told.

    gRPC cancels handlers whose callers leave, and logs nothing of it.
    """
    return asyncio.CancelledError("the caller has left")
