"""The client for asyncio."""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc

from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.router_pb2 import ListExpertsRequest, ListExpertsResponse, RouteRequest, RouteResponse
from expertmesh_client.answer import AsyncAnswer
from expertmesh_client.asking import Message, PrecisionWish, Wishes, request_of
from expertmesh_client.call_span import CallSpan
from expertmesh_client.calls import (
    ATTEMPTS,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    PAUSE_GROWTH,
    WORTH_ANOTHER,
    Call,
    OwnCalls,
    SharedCall,
)
from expertmesh_client.direct import DirectCall
from expertmesh_client.places import Place, Places, is_gone, targets_of
from expertmesh_client.tokens import Token, shown
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import error_of_call
from mesh_wire.serving import open_channel
from mesh_wire.telemetry import Telemetry
from mesh_wire.tls import ClientTls

INFERENCE, ROUTER = "expertmesh.v1.InferenceService", "expertmesh.v1.RouterService"
DEFAULT_TARGET = "localhost:50050"

# What gRPC does for every call by itself.
SERVICE_CONFIG = json.dumps(
    {
        # Several addresses behind one name share the calls; a router that drains gets no new ones.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": INFERENCE},
        "methodConfig": [
            {
                "name": [
                    {"service": ROUTER, "method": "Route"},
                    {"service": ROUTER, "method": "ListExperts"},
                ],
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS,
                    "initialBackoff": f"{FIRST_PAUSE_S}s",
                    "maxBackoff": f"{LONGEST_PAUSE_S}s",
                    "backoffMultiplier": PAUSE_GROWTH,
                    "retryableStatusCodes": [code.name for code in WORTH_ANOTHER],
                },
            }
        ],
    }
)
Over = Literal["session", "generate"]
Response = TypeVar("Response")


class AsyncClient:
    """Asks a router, or an expert directly. Made and used on one event loop. Every failure is a `MeshError`.

    Args:
        target: where it listens: `host:port` or any gRPC target. Several, in a list or with commas between them, are
            routers of one mesh: when one is gone, the next takes over, answers under way included. A name behind which
            several routers stand may be given twice.
        tls: None means plain text.
        timeout_s: time for each call that is given none of its own; None means no limit.
        telemetry: records a span per call and sends its context along; None records nothing.
        over: how answers come: all through one long-lived `Session`, the cheapest, or each through a `Generate` call
            of its own, which may spread over several servers behind one name. The behaviour is the same.
        direct: ask the router for decisions alone and get answers from the experts themselves, over a session to each,
            so that no token passes the router. The experts' addresses must be reachable from here.
        expert_tls: how experts are reached then; None means as the router is.
        token: says to the router, and to no expert of a direct way, who asks: a token, or a function that returns one
            that is good now. Without TLS, everybody on the way can read it.
    """

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        tls: ClientTls | None = None,
        timeout_s: float | None = None,
        telemetry: Telemetry | None = None,
        over: Over = "session",
        direct: bool = False,
        expert_tls: ClientTls | None = None,
        token: Token | None = None,
    ) -> None:
        targets = targets_of(target)
        self.target = ",".join(targets)
        self._over = over
        self._headers = shown(token)
        self._timeout_s = timeout_s
        self._telemetry = telemetry or Telemetry.off()
        self._direct = direct
        towards = tls if expert_tls is None else expert_tls

        def place(target: str) -> Place:
            channel = open_channel(target, tls, service_config=SERVICE_CONFIG, attentive=len(targets) > 1)
            around = (lambda to: open_channel(to, towards)) if direct else None
            return Place(target, channel, around, self._headers)

        self._places = Places([place(each) for each in targets])

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._places.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Message] | None = None,
        token_ids: Iterable[int] | None = None,
        expert: str = "",
        sampling: Wishes | None = None,
        request_id: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> AsyncAnswer:
        """Ask for an answer to one of `prompt`, `messages` and `token_ids`. The call begins when it is iterated.

        Args:
            expert: who is to answer; empty lets the router decide.
            sampling: a `Sampling`, or its fields by name.
            request_id: the caller's name for this request.
            conversation: the caller's name for the conversation that this is part of: its requests go to the replica
                whose cache knows their beginning. Empty: a chat is known again by its first messages.
            precision: which of an expert and its twin in lower precision may answer; None lets either.
            timeout_s: seconds for the whole answer; None takes the client's.
        """
        request = request_of(
            prompt,
            messages=messages,
            token_ids=token_ids,
            expert=expert,
            sampling=sampling,
            request_id=request_id,
            conversation=conversation,
            precision=precision,
        )

        def begin(span: CallSpan) -> Call:
            if self._direct:
                return DirectCall(self._places, request, self._time(timeout_s), span.span)
            if self._over == "session":
                return SharedCall(self._places, request, self._time(timeout_s), span.span)
            headers = (*span.headers, *self._headers())
            kept = span.kept if span.is_told else None
            return OwnCalls(self._places, request, self._time(timeout_s), headers, kept)

        decides = self._over == "session" or self._direct
        return AsyncAnswer(begin, lambda: self._span(INFERENCE, "Generate", decides=decides, **_generation(request)))

    def chat(
        self,
        messages: Iterable[Message],
        *,
        expert: str = "",
        sampling: Wishes | None = None,
        request_id: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> AsyncAnswer:
        """Ask for the next turn of a conversation, as `generate(messages=...)` does."""
        return self.generate(
            messages=messages,
            expert=expert,
            sampling=sampling,
            request_id=request_id,
            conversation=conversation,
            precision=precision,
            timeout_s=timeout_s,
        )

    async def route(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Message] | None = None,
        expert: str = "",
        conversation: str = "",
        precision: PrecisionWish | None = None,
        timeout_s: float | None = None,
    ) -> RouteResponse:
        """Ask who would answer, and why, without an answer."""
        about = request_of(prompt, messages=messages, expert=expert, conversation=conversation, precision=precision)
        request = RouteRequest(request=about)
        return await self._unary(lambda place: place.router.Route, "Route", request, timeout_s)

    async def experts(self, *, timeout_s: float | None = None) -> ListExpertsResponse:
        """Ask for the fleet and its load."""
        return await self._unary(lambda place: place.router.ListExperts, "ListExperts", ListExpertsRequest(), timeout_s)

    async def _unary(
        self,
        call: Callable[[Place], Callable[..., Awaitable[Response]]],
        method: str,
        request: object,
        timeout_s: float | None,
    ) -> Response:
        span = self._span(ROUTER, method)
        left: BaseException | None = None
        deadline = Deadline.after(self._time(timeout_s))
        untried = len(self._places)
        try:
            headers = (*span.headers, *self._headers())
            while True:
                place = self._places.now
                try:
                    return await call(place)(request, timeout=deadline.left_s(), metadata=headers)
                except grpc.RpcError as error:
                    left = told = error_of_call(error)
                untried -= 1
                if not untried or not is_gone(told):
                    raise told from None
                self._places.leave(place)
                left = None
        except BaseException as error:
            left = error
            raise
        finally:
            span.end(left)

    def _span(self, service: str, method: str, *, decides: bool = False, **attributes: Any) -> CallSpan:
        return CallSpan(self._telemetry, f"{service}/{method}", self._places.now.target, attributes, decides=decides)

    def _time(self, timeout_s: float | None) -> float | None:
        return self._timeout_s if timeout_s is None else timeout_s


def _generation(request: GenerateRequest) -> dict[str, str | bool]:
    asked: dict[str, str | bool] = {"gen_ai.operation.name": "chat", "gen_ai.request.stream": True}
    return asked | ({"gen_ai.request.model": request.expert} if request.expert else {})
