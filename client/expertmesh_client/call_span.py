"""The caller's span of one call: the root of a request's trace."""

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from expertmesh.v1.generation_pb2 import Finished, RouteChosen
from mesh_wire.sketches import Sketch, Verdict
from mesh_wire.telemetry import Telemetry, fail
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
        self.trace_id = ""  # 32 hexadecimal digits; empty when the call is not traced
        self.headers: Sequence[tuple[str, str]] = ()  # W3C trace context, as metadata
        self._span: Span = trace.INVALID_SPAN
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
        self._span = telemetry.start_span(method, SpanKind.CLIENT, attributes=about)
        if isinstance(self._span, Sketch) and not decides:
            self._span.record.tells = False
            self._verdict = self._span.record.verdict = Verdict()
        with trace.use_span(self._span):
            self.headers = tuple(telemetry.carry().items())
        self.trace_id = f"{self._span.get_span_context().trace_id:032x}"

    @property
    def is_told(self) -> bool:
        """Whether the server's word on this trace is worth a look."""
        return self._verdict is not None

    def kept(self) -> None:
        """Note that the server keeps its part of the trace."""
        if self._verdict is not None:
            self._verdict.kept = True

    def routed(self, route: RouteChosen) -> None:
        self._span.set_attribute("expertmesh.expert", route.expert)
        self._span.set_attribute("expertmesh.replica", route.replica)
        self._span.set_attribute("expertmesh.reason", reason_word(route.reason))

    def got_text(self) -> None:
        """Note the first token; later ones leave no mark."""
        if not self._has_text:
            self._has_text = True
            self._span.add_event("gen_ai.first_token")

    def finished(self, finished: Finished) -> None:
        self._span.set_attribute("gen_ai.usage.input_tokens", finished.usage.prompt_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", finished.usage.completion_tokens)
        self._span.set_attribute("gen_ai.response.finish_reasons", [finish_word(finished.reason)])

    def end(self, error: BaseException | None = None) -> None:
        """End the span; the second time does nothing."""
        if not self._span.is_recording():
            return
        if error is None:
            self._span.set_attribute("rpc.response.status_code", "OK")
        else:
            fail(self._span, error)
        self._span.end()


def address_of(target: str) -> tuple[str, int | None]:
    """Return host and port of a gRPC target; no port where the target names none."""
    address = target.rsplit("/", 1)[-1]
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        return host.strip("[]"), int(port)
    return address.strip("[]"), None
