"""The caller's span of one call: the root of a request's trace."""

import time
from collections.abc import Mapping, Sequence

from opentelemetry.util.types import AttributeValue

from expertmesh.v1.generation_pb2 import Finished, RouteChosen
from mesh_wire.sketches import Sketch
from mesh_wire.telemetry import Telemetry
from mesh_wire.trace_context import Verdict, current_caller
from mesh_wire.untraced import CLIENT, UNTRACED, Untraced
from mesh_wire.words import finish_word, reason_word


class CallSpan:
    """The span of one call. It is never made current while the caller's own code runs."""

    def __init__(
        self,
        telemetry: Telemetry,
        method: str,
        target: str,
        attributes: Mapping[str, AttributeValue],
        *,
        decides: bool = False,
    ) -> None:
        """Args:
        decides: whether a trace that the sampler left out is kept or not is this caller's to say, since it can tell
            those that it calls; otherwise `kept` says so. See `mesh_wire.tail`.
        """
        self.span: Untraced = UNTRACED
        self._verdict: Verdict | None = None
        self._has_text = False
        if not telemetry.enabled:
            return
        host, port = address_of(target)
        about: dict[str, AttributeValue] = {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "server.address": host,
            **attributes,
        }
        if port is not None:
            about["server.port"] = port
        self.span = telemetry.begin(method, CLIENT, current_caller(), about, tells=decides)
        if isinstance(self.span, Sketch) and not self.span.kept and not decides:
            self._verdict = self.span.verdict = Verdict()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty when the call is not traced."""
        return f"{self.span.trace_id:032x}" if self.span.trace_id else ""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """W3C trace context, as metadata."""
        named = zip(("traceparent", "tracestate"), self.span.headers(), strict=True)
        return tuple((name, value) for name, value in named if value)

    @property
    def is_told(self) -> bool:
        """Whether the server's word on this trace is worth a look."""
        return self._verdict is not None

    def kept(self) -> None:
        """Note that the server keeps its part of the trace."""
        if self._verdict is not None:
            self._verdict.kept = True

    def routed(self, route: RouteChosen) -> None:
        self.span.set_attribute("expertmesh.expert", route.expert)
        self.span.set_attribute("expertmesh.replica", route.replica)
        self.span.set_attribute("expertmesh.reason", reason_word(route.reason))

    def got_text(self) -> None:
        """Note the first token; later ones leave no mark."""
        if not self._has_text:
            self._has_text = True
            self.span.first_token(time.monotonic())

    def finished(self, finished: Finished) -> None:
        self.span.set_attribute("gen_ai.usage.input_tokens", finished.usage.prompt_tokens)
        self.span.set_attribute("gen_ai.usage.output_tokens", finished.usage.completion_tokens)
        self.span.set_attribute("gen_ai.response.finish_reasons", [finish_word(finished.reason)])

    def end(self, error: BaseException | None = None) -> None:
        """End the span; the second time does nothing."""
        if not self.span.is_recording():
            return
        if error is not None:
            self.span.fail(error)
        self.span.end()


def address_of(target: str) -> tuple[str, int | None]:
    """Return host and port of a gRPC target; no port where the target names none."""
    address = target.rsplit("/", 1)[-1]
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        return host.strip("[]"), int(port)
    return address.strip("[]"), None
