"""Spans as OTLP-JSON, the form that Jaeger answers in, its pages open, and the collector writes to files.

It differs from protobuf's own JSON: ids are hexadecimal, enums are numbers. Both directions are written out, since
protobuf's `json_format` takes nearly a millisecond a span, which would be what a busy store does all day.

Source: "OTLP/HTTP, JSON Protobuf encoding" in OpenTelemetry's specification; opentelemetry/proto/trace/v1/trace.proto.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from expertmesh_client.traces.spans import Event, Kind, Span

_KINDS: Mapping[Any, Kind] = {
    1: Kind.INTERNAL,
    2: Kind.SERVER,
    3: Kind.CLIENT,
    **{f"SPAN_KIND_{kind.name}": kind for kind in (Kind.INTERNAL, Kind.SERVER, Kind.CLIENT)},  # older exporters
}
_FAILED = (2, "STATUS_CODE_ERROR")


def to_json(batches: Iterable[trace_pb2.ResourceSpans]) -> dict[str, Any]:
    """Return the OTLP-JSON of resource spans, as data: a `TracesData`."""
    return {"resourceSpans": [_resource_spans(batch) for batch in batches]}


def spans_in(data: Any) -> Iterator[tuple[str, Span, dict[str, Any]]]:
    """Yield the spans of OTLP-JSON: the trace's id, 32 hexadecimal digits, the span, and the span alone as
    `resourceSpans` entry. Fields of later versions are passed over.

    Raises:
        ValueError: the data is not OTLP-JSON.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("resourceSpans"), list):
        raise ValueError("OTLP-JSON is an object with resourceSpans")
    try:
        for group in data["resourceSpans"]:
            about = {key: value for key, value in group.items() if key != "scopeSpans"}
            service = _read_attributes((group.get("resource") or {}).get("attributes")).get("service.name", "")
            for scope in group.get("scopeSpans") or ():
                within = {key: value for key, value in scope.items() if key != "spans"}
                for span in scope.get("spans") or ():
                    alone = {**about, "scopeSpans": [{**within, "spans": [span]}]}
                    yield _id(span["traceId"], 32), _read_span(span, service), alone
    except KeyError as error:
        raise ValueError(f"a span lacks {error.args[0]}") from None
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not OTLP-JSON: {error}") from None


# Reading


def _read_span(span: Mapping[str, Any], service: str) -> Span:
    return Span(
        span_id=_id(span["spanId"], 16),
        parent_id=_id(span["parentSpanId"], 16) if span.get("parentSpanId") else "",
        name=str(span.get("name", "")),
        kind=_KINDS.get(span.get("kind"), Kind.OTHER),
        service=service,
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        failed=(span.get("status") or {}).get("code") in _FAILED,
        attributes=_read_attributes(span.get("attributes")),
        events=tuple(
            Event(str(event.get("name", "")), int(event.get("timeUnixNano", 0))) for event in span.get("events") or ()
        ),
    )


def _id(written: Any, digits: int) -> str:
    """Return an id in small hexadecimal digits; a short one gets leading zeros, as a 64-bit trace id does."""
    if not isinstance(written, str) or not 1 <= len(written) <= digits:
        raise ValueError(f"{written!r} is not an id of up to {digits} hexadecimal digits")
    return f"{int(written, 16):0{digits}x}"


def _read_attributes(pairs: Any) -> dict[str, str]:
    """Return attributes as text; lists and the like are left out."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        value = pair.get("value") or {}
        for kind in ("stringValue", "intValue", "doubleValue", "boolValue"):
            if kind in value:
                found[pair["key"]] = str(value[kind])
    return found


# Writing. Fields that have their default are left out, as protobuf's own JSON does.


def _resource_spans(batch: trace_pb2.ResourceSpans) -> dict[str, Any]:
    resource = batch.resource
    return _present(
        resource=_present(
            attributes=_pairs(resource.attributes), droppedAttributesCount=resource.dropped_attributes_count
        ),
        scopeSpans=[_scope_spans(scope) for scope in batch.scope_spans],
        schemaUrl=batch.schema_url,
    )


def _scope_spans(scope_spans: trace_pb2.ScopeSpans) -> dict[str, Any]:
    scope = scope_spans.scope
    return _present(
        scope=_present(
            name=scope.name,
            version=scope.version,
            attributes=_pairs(scope.attributes),
            droppedAttributesCount=scope.dropped_attributes_count,
        ),
        spans=[_span(span) for span in scope_spans.spans],
        schemaUrl=scope_spans.schema_url,
    )


def _span(span: trace_pb2.Span) -> dict[str, Any]:
    return _present(
        traceId=span.trace_id.hex(),
        spanId=span.span_id.hex(),
        traceState=span.trace_state,
        parentSpanId=span.parent_span_id.hex(),
        flags=span.flags,
        name=span.name,
        kind=int(span.kind),
        startTimeUnixNano=str(span.start_time_unix_nano),
        endTimeUnixNano=str(span.end_time_unix_nano),
        attributes=_pairs(span.attributes),
        droppedAttributesCount=span.dropped_attributes_count,
        events=[_event(event) for event in span.events],
        droppedEventsCount=span.dropped_events_count,
        links=[_link(link) for link in span.links],
        droppedLinksCount=span.dropped_links_count,
        status=_present(message=span.status.message, code=int(span.status.code)),
    )


def _event(event: trace_pb2.Span.Event) -> dict[str, Any]:
    return _present(
        timeUnixNano=str(event.time_unix_nano),
        name=event.name,
        attributes=_pairs(event.attributes),
        droppedAttributesCount=event.dropped_attributes_count,
    )


def _link(link: trace_pb2.Span.Link) -> dict[str, Any]:
    return _present(
        traceId=link.trace_id.hex(),
        spanId=link.span_id.hex(),
        traceState=link.trace_state,
        attributes=_pairs(link.attributes),
        droppedAttributesCount=link.dropped_attributes_count,
        flags=link.flags,
    )


def _pairs(pairs: Iterable[KeyValue]) -> list[dict[str, Any]]:
    return [{"key": pair.key, "value": _value(pair.value)} for pair in pairs]


def _value(value: AnyValue) -> dict[str, Any]:
    match value.WhichOneof("value"):
        case "string_value":
            return {"stringValue": value.string_value}
        case "bool_value":
            return {"boolValue": value.bool_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "double_value":
            return {"doubleValue": _number(value.double_value)}
        case "array_value":
            return {"arrayValue": {"values": [_value(one) for one in value.array_value.values]}}
        case "kvlist_value":
            return {"kvlistValue": {"values": _pairs(value.kvlist_value.values)}}
        case "bytes_value":
            return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
    return {}


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite; protobuf's has these three."""
    if value != value:
        return "NaN"
    return value if abs(value) != float("inf") else f"{'-' if value < 0 else ''}Infinity"


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
