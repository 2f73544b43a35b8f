"""Who may make which call: asked once a call, before its handler."""

from collections.abc import Collection
from typing import Any

import grpc
from opentelemetry import metrics

from mesh_wire.auth.callers import Caller, Kind, caller_of, note_calling
from mesh_wire.auth.identity import Identities
from mesh_wire.auth.sections import Rights
from mesh_wire.errors import Forbidden, MeshError, Unauthenticated
from mesh_wire.telemetry import Telemetry

ASKING = frozenset({"Generate", "Session"})  # RPCs that a ticket is good for: its gate looks at it with each request


class Guard:
    """Lets calls in, or not. Health checks never come here: who watches a service need not be known to it."""

    def __init__(
        self,
        identities: Identities,
        telemetry: Telemetry,
        *,
        kinds: Collection[Kind],
        anonymous: Rights | None = None,
        tickets: bool = False,
        workers: int = 1,
    ) -> None:
        """Args:
        kinds: of callers that are let in.
        anonymous: what those may do who do not say who they are; None: nothing.
        tickets: whether a ticket lets requests in, whoever brings it.
        """
        self._identities = identities
        self._kinds = frozenset(kinds)
        self._anonymous = None if anonymous is None else caller_of("", Kind.ANONYMOUS, anonymous, workers=workers)
        self._tickets = tickets
        self._refused: metrics.Counter = telemetry.meter.create_counter(
            "expertmesh.auth.refused", unit="{call}", description="Calls that were not let in, by reason"
        )

    def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Let a call in, and note who makes it for `calling`.

        Args:
            method: its full name, such as `/expertmesh.v1.InferenceService/Generate`.

        Raises:
            Unauthenticated, Forbidden: with what of the call.
        """
        try:
            note_calling(self._admitted(method.rpartition("/")[2], context))
        except MeshError as error:
            self._refused.add(1, {"error.type": error.reason})
            raise

    def _admitted(self, rpc: str, context: grpc.aio.ServicerContext[Any, Any]) -> Caller | None:
        caller = self._identities.of(context)
        if caller is None:
            if self._tickets and (rpc in ASKING or Kind.PEER not in self._kinds):
                return None
            if self._anonymous is None:
                raise _nobody(context)
            caller = self._anonymous
        elif caller.kind not in self._kinds:
            if self._tickets and rpc in ASKING:
                return None
            raise Forbidden("only others may call here", reason="CALLER_UNKNOWN", tokens_sent="0")
        if caller.rpcs is not None and rpc not in caller.rpcs:
            raise Forbidden(f"this caller may not use {rpc}", reason="RPC_NOT_ALLOWED", rpc=rpc, tokens_sent="0")
        return caller


def _nobody(context: grpc.aio.ServicerContext[Any, Any]) -> MeshError:
    if context.peer_identities():
        return Forbidden("the certificate names nobody who may call here", reason="CALLER_UNKNOWN", tokens_sent="0")
    return Unauthenticated("this server asks who calls", reason="CREDENTIALS_MISSING", tokens_sent="0")
