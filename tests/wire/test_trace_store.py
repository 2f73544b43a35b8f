"""The trace store, over real OTLP on one side and Jaeger's query API on the other."""

import asyncio
import base64
import json
import socket
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData

from expertmesh_client.local_traces import local_traces
from expertmesh_client.otlp_json import from_json, to_json
from expertmesh_client.spans import Kind, spans_of
from expertmesh_client.trace_fetch import TraceUnavailable, fetch_trace
from expertmesh_client.trace_query import querying
from expertmesh_client.trace_receiver import receiving
from expertmesh_client.trace_store import TraceStore
from mesh_wire.serving import PortTaken
from mesh_wire.telemetry import exporting


def batch(*spans, service="expertmesh-router"):
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
            end_time_unix_nano=5,
        )
    return resource


def exported(endpoint):
    """Export a small trace as a service does; returns its id."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}
    with exporting("expertmesh-client", "test", env=env) as telemetry:
        with telemetry.span("outer") as span, telemetry.span("inner"):
            pass
        return f"{span.get_span_context().trace_id:032x}"


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


async def test_a_trace_that_cannot_be_had_is_an_error_that_says_why():
    with local_traces(0, 0) as traces:
        with pytest.raises(TraceUnavailable, match="has no span of trace"):
            await fetch_trace(traces.query_url, "ab" * 16, wait_s=0)
        with pytest.raises(TraceUnavailable, match="answers 400"):
            await fetch_trace(traces.query_url, "wizard", wait_s=0)
    with pytest.raises(TraceUnavailable, match="cannot be reached"):
        await fetch_trace("http://127.0.0.1:1", "ab" * 16, wait_s=0)
    with pytest.raises(TraceUnavailable, match="not the address"):
        await fetch_trace("file:///etc", "ab" * 16, wait_s=0)


@pytest.mark.parametrize(
    "said", [b"<html>", b"[]", b'{"result": []}', b'{"result": {"resourceSpans": [{"a": {}}, 7]}}']
)
async def test_something_else_that_answers_there_is_named(said):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        with pytest.raises(TraceUnavailable, match="does not answer as Jaeger does"):
            await fetch_trace(f"http://127.0.0.1:{server.server_port}", "ab" * 16, wait_s=0)
        answering.join()


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/v3/traces/" + "ab" * 16, 404, "No traces found"),
        ("/api/v3/traces/wizard", 400, "malformed parameter trace_id"),
        ("/api/v3/traces/" + "a" * 33, 400, "malformed parameter trace_id"),
        ("/api/v3/traces/", 400, "malformed parameter trace_id"),
        ("/api/v3/services", 404, "not found"),
    ],
)
async def test_errors_have_the_form_of_jaegers(path, status, message):
    with querying(TraceStore(), "127.0.0.1", 0) as port:
        code, body = await asyncio.to_thread(get, f"http://127.0.0.1:{port}{path}")

    assert code == status
    assert body["error"]["httpCode"] == status
    assert body["error"]["message"].startswith(message)


def test_ports_that_are_taken_are_replaced_by_free_ones():
    with socket.create_server(("127.0.0.1", 0)) as otlp, socket.create_server(("127.0.0.1", 0)) as query:
        taken = otlp.getsockname()[1], query.getsockname()[1]
        with local_traces(*taken) as traces:
            assert str(taken[0]) not in traces.otlp_endpoint
            assert str(taken[1]) not in traces.query_url
            assert not traces.usual


def test_the_store_keeps_the_newest_traces_and_bounds_each():
    store = TraceStore(max_traces=2, max_spans=2)
    store.add([batch((b"1", b"a", b""), (b"2", b"b", b""))])
    store.add([batch((b"1", b"c", b"a"))])  # the first is now the one that spoke last
    store.add([batch((b"3", b"d", b""))])

    assert store.trace_ids == [b"1" * 16, b"3" * 16]
    assert store.trace(b"2" * 16) is None
    assert store.add([batch((b"1", b"e", b"a"))]) == 1, "a third span of one trace is dropped, and counted"
    assert [span.name for span in spans_of(store.trace(b"1" * 16))] == ["a", "c"]


def test_spans_sent_twice_are_shown_once():
    store = TraceStore()
    store.add([batch((b"1", b"a", b"")), batch((b"1", b"a", b""))])

    assert len(spans_of(store.trace(b"1" * 16))) == 1


def test_otlp_json_comes_back_as_it_went():
    traces = TracesData(resource_spans=[batch((b"1", b"a", b""), (b"1", b"b", b"a"))])
    span = traces.resource_spans[0].scope_spans[0].spans[0]
    span.links.add(trace_id=b"9" * 16, span_id=b"8" * 8)
    span.attributes.add(key="traceId").value.bytes_value = b"\x00\xff"

    written = to_json(traces)

    assert from_json(json.loads(json.dumps(written))) == traces
    linked = written["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert linked["links"][0]["traceId"] == (b"9" * 16).hex()
    assert linked["attributes"][0]["value"]["bytesValue"] == base64.b64encode(b"\x00\xff").decode()


async def test_metrics_are_accepted_and_exporters_do_not_complain(caplog):
    store = TraceStore()
    with receiving(store, "127.0.0.1:0") as port:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        with exporting("expertmesh-router", "test", env=env) as telemetry:
            telemetry.instruments.in_flight.add(1)
            with telemetry.span("outer"):
                pass

    assert len(store) == 1
    assert caplog.records == []


def test_a_port_in_use_is_an_error():
    store = TraceStore()
    with receiving(store, "127.0.0.1:0") as port, pytest.raises(PortTaken), receiving(store, f"127.0.0.1:{port}"):
        pass
