"""The trace store, over real OTLP on one side and Jaeger's query API on the other."""

import asyncio
import json
import socket
import urllib.error
import urllib.request

import pytest
from opentelemetry.trace import SpanKind

from expertmesh_client.traces.jaeger import fetch_trace
from expertmesh_client.traces.local import Keeping, local_traces
from expertmesh_client.traces.memory_store import MemoryStore
from expertmesh_client.traces.receiver import receiving
from expertmesh_client.traces.sources import FileSource
from expertmesh_client.traces.spans import Kind
from mesh_wire.serving import PortTaken
from mesh_wire.telemetry import exporting
from support.traces import batch


def exported(endpoint):
    """Export a small trace as a service does; returns its id."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}
    with exporting("expertmesh-client", "test", env=env) as telemetry:
        with telemetry.begin("outer", SpanKind.INTERNAL) as span, span.stage("inner"):
            pass
        return f"{span.trace_id:032x}"


def get(url):
    try:
        with urllib.request.urlopen(url) as response:  # noqa: S310 - our own server
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_spans_that_come_by_otlp_go_out_as_jaeger_gives_them():
    with local_traces(0, 0) as traces:
        trace_id = exported(traces.otlp_endpoint)
        status, body = await asyncio.to_thread(get, f"{traces.query_url}/api/v3/traces/{trace_id}")

    assert status == 200
    [resource] = body["result"]["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "expertmesh-client"}} in resource["resource"]["attributes"]
    inner, outer = resource["scopeSpans"][0]["spans"]
    assert outer["name"] == "outer"
    assert outer["traceId"] == trace_id, "ids are hexadecimal"
    assert inner["parentSpanId"] == outer["spanId"]
    assert len(outer["spanId"]) == 16
    assert outer["kind"] == 1, "enums are numbers"
    assert isinstance(outer["startTimeUnixNano"], str), "64-bit integers are text"


async def test_a_trace_is_fetched_until_nothing_is_missing():
    with local_traces(0, 0) as traces:
        store = traces.store
        store.add([batch((b"t", b"b", b"a"))])
        fetching = asyncio.create_task(fetch_trace(traces.query_url, (b"t" * 16).hex()))
        store.add([batch((b"t", b"a", b""), service="expertmesh-client")])
        spans, missing = await fetching

    assert missing == ""
    assert {(span.name, span.service, span.kind) for span in spans} == {
        ("a", "expertmesh-client", Kind.INTERNAL),
        ("b", "expertmesh-router", Kind.INTERNAL),
    }


async def test_a_trace_that_stays_incomplete_is_returned_with_what_it_lacks():
    with local_traces(0, 0) as traces:
        traces.store.add([batch((b"t", b"b", b"a"))])
        spans, missing = await fetch_trace(traces.query_url, (b"t" * 16).hex(), wait_s=0)

    assert len(spans) == 1
    assert missing == "the client's span has not arrived"


def test_ports_that_are_taken_are_replaced_by_free_ones():
    with socket.create_server(("127.0.0.1", 0)) as otlp, socket.create_server(("127.0.0.1", 0)) as query:
        taken = otlp.getsockname()[1], query.getsockname()[1]
        with local_traces(*taken) as traces:
            assert str(taken[0]) not in traces.otlp_endpoint
            assert str(taken[1]) not in traces.query_url
            assert not traces.usual


def test_the_store_keeps_the_newest_traces_and_bounds_each():
    store = MemoryStore(max_traces=2, max_spans=2)
    store.add([batch((b"1", b"a", b""), (b"2", b"b", b""))])
    store.add([batch((b"1", b"c", b"a"))])  # the first is now the one that spoke last
    store.add([batch((b"3", b"d", b""))])

    assert store.trace_ids == [b"1" * 16, b"3" * 16]
    assert store.trace(b"2" * 16) == []
    assert store.add([batch((b"1", b"e", b"a"))]) == 1, "a third span of one trace is dropped, and counted"
    assert names(store, b"1" * 16) == ["a", "c"]


def test_the_store_bounds_all_traces_together():
    store = MemoryStore(max_total=2)
    for trace in (b"1", b"2", b"3"):
        store.add([batch((trace, b"a", b""))])

    assert store.trace_ids == [b"2" * 16, b"3" * 16]


def names(store, trace_id):
    return [span.name for part in store.trace(trace_id) for scope in part.scope_spans for span in scope.spans]


def test_an_export_goes_to_memory_and_to_disk(tmp_path):
    said = []
    keeping = Keeping(folder=tmp_path / "traces", max_bytes=10**6, max_age_s=3600, say=said.append)
    with local_traces(0, 0, keeping) as traces:
        trace_id = exported(traces.otlp_endpoint)

        assert len(traces.store) == 1
        assert traces.folder == tmp_path / "traces"
    [trace] = FileSource(tmp_path / "traces").beginning(trace_id)
    assert {span.name for span in trace.spans} == {"outer", "inner"}
    assert said == []


async def test_metrics_are_accepted_and_exporters_do_not_complain(caplog):
    store = MemoryStore()
    with receiving("127.0.0.1:0", store) as port:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        with exporting("expertmesh-router", "test", env=env) as telemetry:
            telemetry.instruments.in_flight.add(1)
            with telemetry.begin("outer", SpanKind.INTERNAL):
                pass

    assert len(store) == 1
    assert caplog.records == []


def test_a_port_in_use_is_an_error():
    store = MemoryStore()
    with receiving("127.0.0.1:0", store) as port, pytest.raises(PortTaken), receiving(f"127.0.0.1:{port}", store):
        pass
