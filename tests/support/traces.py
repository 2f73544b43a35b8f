"""Spans made by hand, and a whole trace of them."""

from dataclasses import replace
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from expertmesh_client.traces.spans import Event, Kind, Span

MS = 1_000_000
HOUR_MS = 3_600_000
GENERATE, START = "expertmesh.v1.InferenceService/Generate", "expertmesh.v1.InferenceService/Session/start"
_KINDS = {Kind.INTERNAL: 1, Kind.SERVER: 2, Kind.CLIENT: 3, Kind.OTHER: 0}


def span(id_, parent, name, kind, start_ms, took_ms, service="expertmesh-router", **more) -> Span:
    start_ns = int(start_ms * MS)
    end_ns = start_ns + int(took_ms * MS)
    return Span(
        span_id=id_, parent_id=parent, name=name, kind=kind, service=service, start_ns=start_ns, end_ns=end_ns, **more
    )


def whole_trace(ahead_ms: float = HOUR_MS) -> list[Span]:
    """One request: 100 ms at the client, 96 at the router, 80 at the expert, whose clock is an hour ahead.

    3 ms of the router's and 5 of the expert's are covered by no span.
    """
    about = {"expertmesh.expert": "math", "expertmesh.replica": "expert-a", "expertmesh.reason": "confident"}
    usage = {"gen_ai.usage.input_tokens": "30", "gen_ai.usage.output_tokens": "11"}
    first = (Event("gen_ai.first_token", 40 * MS),)
    client = {"attributes": {**about, **usage, "rpc.response.status_code": "OK"}, "events": first}
    expert = "expertmesh-expert"
    return [
        span("c", "", GENERATE, Kind.CLIENT, 0, 100, "expertmesh-client", **client),
        span("r", "c", GENERATE, Kind.SERVER, 2, 96),
        span("r1", "r", "route.admit", Kind.INTERNAL, 2, 1),
        span("r2", "r", "route.classify", Kind.INTERNAL, 3, 4),
        span("r3", "r", "route.select", Kind.INTERNAL, 7, 2),
        span("r4", "r", "expert call", Kind.CLIENT, 9, 86),
        span("e", "r4", START, Kind.SERVER, 12 + ahead_ms, 80, expert),
        span("e1", "e", "engine.queue", Kind.INTERNAL, 12 + ahead_ms, 5, expert),
        span("e2", "e", "engine.prefill", Kind.INTERNAL, 17 + ahead_ms, 20, expert),
        span("e3", "e", "engine.decode", Kind.INTERNAL, 37 + ahead_ms, 50, expert),
    ]


def otlp(spans: list[Span], trace_id: str = "ab" * 16) -> dict[str, Any]:
    """The OTLP-JSON of spans, one resource each. Their ids may be any text."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": one.service}}]},
                "scopeSpans": [{"scope": {"name": "expertmesh"}, "spans": [_written(one, trace_id)]}],
            }
            for one in spans
        ]
    }


def at(spans: list[Span], start_ns: int) -> list[Span]:
    """The same, with the client's clock at `start_ns` when it begins."""
    return [
        replace(
            one,
            start_ns=one.start_ns + start_ns,
            end_ns=one.end_ns + start_ns,
            events=tuple(Event(event.name, event.at_ns + start_ns) for event in one.events),
        )
        for one in spans
    ]


def batch(*spans: tuple[bytes, bytes, bytes], service: str = "expertmesh-router", start_ns: int = 0) -> ResourceSpans:
    """An export of spans, each (trace, id, parent), which name themselves after their ids."""
    resource = ResourceSpans()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_spans.add()
    for trace, id_, parent in spans:
        scope.spans.add(
            trace_id=trace * 16,
            span_id=id_ * 8,
            parent_span_id=parent * 8,
            name=id_.decode(),
            kind=1,
            start_time_unix_nano=start_ns,
            end_time_unix_nano=start_ns + 5,
        )
    return resource


def _written(one: Span, trace_id: str) -> dict[str, Any]:
    return {
        "traceId": trace_id,
        "spanId": _id(one.span_id),
        "parentSpanId": _id(one.parent_id),
        "name": one.name,
        "kind": _KINDS[one.kind],
        "startTimeUnixNano": str(one.start_ns),
        "endTimeUnixNano": str(one.end_ns),
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in one.attributes.items()],
        "events": [{"name": event.name, "timeUnixNano": str(event.at_ns)} for event in one.events],
        "status": {"code": 2} if one.failed else {},
    }


def _id(text: str) -> str:
    return text.encode().hex().rjust(16, "0") if text else ""
