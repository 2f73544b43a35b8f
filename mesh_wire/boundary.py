"""The boundary between gRPC and our handlers: messages are parsed, streams closed and errors named here."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh_wire.errors import DETAILS_KEY, BadInput, Internal, MeshError, status_of

log = logging.getLogger(__name__)


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
      caller as INTERNAL.

    Handlers that write for themselves, such as the stock health servicer's `Watch`, pass through untouched.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":  # generic in its stubs alone
        handler: Any = await continuation(details)
        if handler is None:
            return None
        parse = self._parser(handler.request_deserializer)
        if handler.unary_unary is not None:
            inner = handler.unary_unary
            return grpc.unary_unary_rpc_method_handler(_unary(inner), parse, handler.response_serializer)
        if handler.unary_stream is not None and isasyncgenfunction(handler.unary_stream):
            driven = _driven(handler.unary_stream, _checked)
            return grpc.unary_stream_rpc_method_handler(driven, parse, handler.response_serializer)
        if handler.stream_stream is not None and isasyncgenfunction(handler.stream_stream):
            driven = _driven(handler.stream_stream, _each_checked)
            return grpc.stream_stream_rpc_method_handler(driven, parse, handler.response_serializer)
        return handler  # type: ignore[no-any-return]  # grpcio's own classes are untyped

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


def _unary(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await inner(_checked(request), context)
        except MeshError as error:
            failure = error
        except grpc.aio.AbortError:  # a stock servicer, such as health, has set its status itself
            raise
        except Exception:
            log.exception("a handler failed")
            failure = Internal("a fault of the server", reason="INTERNAL")
        return await _abort(context, failure)

    return call


def _driven(inner: Callable[..., AsyncGenerator[Any, None]], check: Callable[[Any], Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            async with aclosing(inner(check(request), context)) as responses:
                async for response in responses:
                    await context.write(response)
            return
        except MeshError as error:
            failure = error
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("a handler failed")
            failure = Internal("a fault of the server", reason="INTERNAL")
        await _abort(context, failure)

    return call


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError) -> None:
    await context.abort(error.code, error.message, ((DETAILS_KEY, status_of(error).SerializeToString()),))
