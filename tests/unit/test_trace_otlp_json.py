"""OTLP-JSON comes back as it went, by protobuf's own reading of it."""

import base64
import json
import math
from contextlib import suppress

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData

from expertmesh_client.traces.otlp_json import spans_in, to_json
from expertmesh_client.traces.spans import Event, Kind
from support.traces import otlp, whole_trace

IDS = {"traceId", "spanId", "parentSpanId"}
counts = st.integers(0, 2**32 - 1)
texts = st.text(max_size=5)


def values(depth=2):
    plain = [
        st.builds(AnyValue, string_value=texts),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
        st.builds(AnyValue, bytes_value=st.binary(max_size=4)),
        st.just(AnyValue()),
    ]
    if depth:
        inner = values(depth - 1)
        plain.append(st.lists(inner, max_size=2).map(lambda found: AnyValue(array_value={"values": found})))
        pairs = st.lists(st.tuples(texts.filter(bool), inner), max_size=2)
        plain.append(pairs.map(lambda found: AnyValue(kvlist_value={"values": _keyed(found)})))
    return st.one_of(plain)


def _keyed(pairs):
    return [{"key": key, "value": value} for key, value in pairs]


attributes = st.lists(st.tuples(texts.filter(bool), values()), max_size=2).map(_keyed)
times = st.integers(1, 2**63)
spans = st.fixed_dictionaries(
    {
        "trace_id": st.binary(min_size=16, max_size=16),
        "span_id": st.binary(min_size=8, max_size=8),
        "start_time_unix_nano": times,
        "end_time_unix_nano": times,
    },
    optional={
        "parent_span_id": st.binary(min_size=8, max_size=8),
        "trace_state": texts,
        "flags": counts,
        "name": texts,
        "kind": st.integers(0, 5),
        "attributes": attributes,
        "dropped_attributes_count": counts,
        "dropped_events_count": counts,
        "dropped_links_count": counts,
        "events": st.lists(
            st.fixed_dictionaries({"time_unix_nano": times, "name": texts, "attributes": attributes}), max_size=2
        ),
        "links": st.lists(
            st.fixed_dictionaries({"trace_id": st.binary(min_size=16, max_size=16), "attributes": attributes}),
            max_size=2,
        ),
        "status": st.fixed_dictionaries({"code": st.integers(1, 2), "message": texts}),
    },
)


def base64_ids(data):
    """OTLP-JSON as protobuf's JSON, which writes ids as it writes all bytes."""
    if isinstance(data, dict):
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode()
            if key in IDS and isinstance(value, str)
            else base64_ids(value)
            for key, value in data.items()
        }
    return [base64_ids(one) for one in data] if isinstance(data, list) else data


@given(st.lists(spans, min_size=1, max_size=3), attributes, texts)
def test_protobuf_reads_what_was_written_as_what_it_was(found, about, name):
    batch = ResourceSpans(
        resource={"attributes": about, "dropped_attributes_count": 3},
        scope_spans=[{"scope": {"name": name, "attributes": about}, "spans": found, "schema_url": name}],
        schema_url=name,
    )

    written = json.loads(json.dumps(to_json([batch])))

    read = ParseDict(base64_ids(written), TracesData())
    assert read.resource_spans[0].SerializeToString(deterministic=True) == _without_empty(batch)


def _without_empty(batch):
    """A message that is there and empty is not written: it means what absence does."""
    for scope in batch.scope_spans:
        if not scope.scope.ByteSize():
            scope.ClearField("scope")
        for span in scope.spans:
            if not span.status.ByteSize():
                span.ClearField("status")
    return batch.SerializeToString(deterministic=True)


@pytest.mark.parametrize(("number", "written"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_numbers_that_json_lacks_are_words(number, written):
    batch = ResourceSpans(resource={"attributes": [{"key": "x", "value": {"double_value": number}}]})

    [pair] = to_json([batch])["resourceSpans"][0]["resource"]["attributes"]

    assert pair["value"] == {"doubleValue": written}


def test_spans_are_read_with_their_service_events_and_ids():
    found = list(spans_in(otlp(whole_trace(0))))

    trace_id, root, entry = found[0]
    assert trace_id == "ab" * 16
    assert (root.name, root.kind, root.service) == (
        "expertmesh.v1.InferenceService/Generate",
        Kind.CLIENT,
        "expertmesh-client",
    )
    assert root.events == (Event("gen_ai.first_token", 40_000_000),)
    assert found[1][1].parent_id == root.span_id
    assert [one[1] for one in spans_in({"resourceSpans": [entry]})] == [root]


def test_ids_of_64_bits_and_capital_letters_are_the_same_trace():
    data = otlp(whole_trace(0)[:1], "00AB")

    assert next(spans_in(data))[0] == f"{0xAB:032x}"


def test_names_for_enums_are_read_too():
    data = otlp(whole_trace(0)[:1])
    [span] = data["resourceSpans"][0]["scopeSpans"][0]["spans"]
    span["kind"], span["status"] = "SPAN_KIND_CLIENT", {"code": "STATUS_CODE_ERROR"}

    [(_, read, _)] = spans_in(data)

    assert (read.kind, read.failed) == (Kind.CLIENT, True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "an object with resourceSpans"),
        ([], "an object with resourceSpans"),
        ({"resourceSpans": {}}, "an object with resourceSpans"),
        ({"resourceSpans": [7]}, "not OTLP-JSON"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}, "a span lacks traceId"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz", "spanId": "1"}]}]}]}, "'xyz'"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "ab", "spanId": "1" * 17}]}]}]}, "up to 16"),
        ({"resourceSpans": [{"resource": {"attributes": [{"value": {"intValue": 1}}]}}]}, "lacks key"),
    ],
)
def test_what_is_not_otlp_json_is_refused_with_a_reason(data, words):
    with pytest.raises(ValueError, match=words):
        list(spans_in(data))


@given(
    st.recursive(
        st.none() | st.integers() | texts,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes", "resource"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_json_comes_is_read_or_refused(data):
    with suppress(ValueError):
        list(spans_in(data))
