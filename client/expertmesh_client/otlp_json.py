"""Spans as OTLP-JSON, the form that Jaeger answers in. It differs from protobuf's own JSON: ids are hexadecimal."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def to_json(traces: TracesData) -> dict[str, Any]:
    """Return the OTLP-JSON of `traces`, as data."""
    written: dict[str, Any] = _with_ids(MessageToDict(traces, use_integers_for_enums=True), _hexadecimal)
    return written


def from_json(data: Any) -> TracesData:
    """Return the spans of OTLP-JSON. Fields of later versions are passed over.

    Raises:
        ValueError: the data is not OTLP-JSON.
    """
    if not isinstance(data, Mapping):
        raise ValueError("OTLP-JSON is an object with resourceSpans")
    try:
        return ParseDict(_with_ids(data, _base64), TracesData(), ignore_unknown_fields=True)
    except (ParseError, binascii.Error, AttributeError) as error:
        raise ValueError(f"not OTLP-JSON: {error}") from None


def _with_ids(data: Any, change: Callable[[str], str]) -> Any:
    if isinstance(data, Mapping):
        return {key: change(value) if key in _IDS else _with_ids(value, change) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_ids(item, change) for item in data]
    return data


def _hexadecimal(id_: str) -> str:
    return base64.b64decode(id_).hex()


def _base64(id_: str) -> str:
    return base64.b64encode(binascii.unhexlify(id_)).decode()
