"""Jaeger's query API v3: our client against a service that implements the definition, and our service's own answers."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlencode

import pytest

from expertmesh_client.traces.jaeger import Jaeger, TraceUnavailable, fetch_trace
from expertmesh_client.traces.memory_store import MemoryStore
from expertmesh_client.traces.query_server import answer, querying
from expertmesh_client.traces.sources import JaegerSource
from support.jaeger import jaeger
from support.traces import at, batch, otlp, whole_trace


def now_ns(ago_s=0):
    return time.time_ns() - ago_s * 10**9


def test_a_search_asks_as_the_definition_says():
    with jaeger() as there:
        there.add(otlp(at(whole_trace(), now_ns())))
        found = Jaeger(there.url).find("expertmesh-router", since_ns=now_ns(3600), limit=7)

    [search] = there.searches
    assert search["query.service_name"] == "expertmesh-router"
    assert (search["query.search_depth"], search["query.raw_traces"]) == ("7", "true")
    assert [len(trace.spans) for trace in found] == [10]


def test_a_trace_is_asked_for_by_its_id_as_stored():
    with jaeger() as there:
        there.add(otlp(whole_trace()))
        trace = Jaeger(there.url).trace("ab" * 16)
        assert Jaeger(there.url).trace("cd" * 16) is None

    assert there.gets == ["ab" * 16, "cd" * 16]
    assert trace.trace_id == "ab" * 16
    assert len(trace.spans) == 10


def test_an_answer_in_several_pieces_is_one():
    with jaeger() as there:
        there.chunked = True
        for number in range(3):
            there.add(otlp(at(whole_trace(), now_ns()), f"{number + 1:032x}"))
        found = Jaeger(there.url).find("expertmesh-router", since_ns=now_ns(60), limit=10)

    assert len(found) == 3


def test_a_source_asks_for_the_router_s_traces_first_and_sorts_them():
    with jaeger() as there:
        there.add(otlp(at(whole_trace(), now_ns(50)), "aa" * 16))
        there.add(otlp(at(whole_trace(), now_ns(20)), "bb" * 16))
        there.add(otlp(at(whole_trace(), now_ns(7000)), "cc" * 16))
        source = JaegerSource(there.url)

        assert [trace.trace_id[:2] for trace in source.newest(10, since_s=3600)] == ["bb", "aa"]
        assert [trace.trace_id[:2] for trace in source.beginning("a")] == ["aa"]
        assert [trace.trace_id[:2] for trace in source.beginning("cc" * 16)] == ["cc"]

    assert there.searches[0]["query.service_name"] == "expertmesh-router"


def test_without_a_router_the_experts_traces_are_found():
    with jaeger() as there:
        expert_alone = [one for one in whole_trace() if one.span_id.startswith("e")]
        there.add(otlp(at(expert_alone, now_ns())))

        assert len(JaegerSource(there.url).newest(10, None)) == 1
        nobody = JaegerSource(there.url, service="nobody")
        assert nobody.newest(10, None) == []

    assert nobody.notes == ["searched for spans of nobody of the last 24 h; there are some of expertmesh-expert"]


def test_what_jaeger_says_of_an_error_is_passed_on():
    with jaeger() as there:
        there.broken = (500, "storage\nis away")
        with pytest.raises(TraceUnavailable, match="answers 500 storage is away"):
            Jaeger(there.url).services()


async def test_a_trace_that_cannot_be_had_is_an_error_that_says_why():
    with jaeger() as there:
        with pytest.raises(TraceUnavailable, match="has no span of trace"):
            await fetch_trace(there.url, "ab" * 16, wait_s=0)
        with pytest.raises(TraceUnavailable, match="answers 400 malformed parameter trace_id"):
            await fetch_trace(there.url, "wizard", wait_s=0)
    with pytest.raises(TraceUnavailable, match="cannot be reached"):
        await fetch_trace("http://127.0.0.1:1", "ab" * 16, wait_s=0)
    with pytest.raises(TraceUnavailable, match="not the address"):
        await fetch_trace("file:///etc", "ab" * 16, wait_s=0)


@pytest.mark.parametrize(
    "said",
    [
        b"<html>",
        b"[]",
        b'{"result": []}',
        b'{"result": {"resourceSpans": [{"a": {}}, 7]}}',
        b"\xff",
        b'{"result": null}',
    ],
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


# Our own service, which answers as Jaeger does


@pytest.fixture
def store():
    store = MemoryStore()
    store.add([batch((b"1", b"a", b""), start_ns=now_ns(100))])
    store.add([batch((b"2", b"b", b""), start_ns=now_ns(5), service="expertmesh-expert")])
    return store


def search(**more):
    return {
        "query.start_time_min": "2020-01-01T00:00:00Z",
        "query.start_time_max": "2100-01-01T00:00:00.5+01:00",
        **more,
    }


async def test_our_client_finds_in_our_service_what_it_finds_in_jaeger(store):
    with querying(store, "127.0.0.1", 0) as port:
        there = Jaeger(f"http://127.0.0.1:{port}")
        services = await asyncio.to_thread(there.services)
        found = await asyncio.to_thread(there.find, "expertmesh-expert", since_ns=now_ns(60), limit=5)
        one = await asyncio.to_thread(there.trace, (b"1" * 16).hex())

    assert services == ["expertmesh-expert", "expertmesh-router"]
    assert [trace.trace_id for trace in found] == [(b"2" * 16).hex()]
    assert [span.name for span in one.spans] == ["a"]


@pytest.mark.parametrize(
    ("path", "query", "status", "message"),
    [
        ("/api/v3/traces/" + "ab" * 16, {}, 404, "No traces found"),
        ("/api/v3/traces/wizard", {}, 400, "malformed parameter trace_id"),
        ("/api/v3/traces/" + "a" * 33, {}, 400, "malformed parameter trace_id"),
        ("/api/v3/traces/", {}, 400, "malformed parameter trace_id"),
        ("/api/v3/operations", {}, 404, "not found"),
        ("/api/v3/traces", {}, 400, "query.start_time_min and query.start_time_max are required"),
        (
            "/api/v3/traces",
            search(**{"query.start_time_min": "today"}),
            400,
            "malformed parameter query.start_time_min",
        ),
        ("/api/v3/traces", search(**{"query.search_depth": "x"}), 400, "malformed parameter query.search_depth"),
        ("/api/v3/traces", search(**{"query.duration_min": "1s"}), 400, "this store does not search by duration_min"),
        ("/api/v3/traces", search(**{"query.service_name": "x"}), 404, "No traces found"),
        ("/api/v3/traces", search(**{"query.search_depth": "0"}), 404, "No traces found"),
    ],
)
def test_errors_have_the_form_of_jaegers(store, path, query, status, message):
    code, body = answer(store, path, query)

    assert code == status
    assert body["error"]["httpCode"] == status
    assert body["error"]["message"].startswith(message)


def test_a_search_keeps_to_its_depth_and_gives_the_newest(store):
    status, body = answer(store, "/api/v3/traces", search(**{"query.search_depth": "1"}))

    assert status == 200
    [entry] = body["result"]["resourceSpans"]
    assert entry["scopeSpans"][0]["spans"][0]["traceId"] == (b"2" * 16).hex()


async def test_parameters_in_a_url_are_read_as_they_were_meant(store):
    with querying(store, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /api/v3/traces?{urlencode(search())} HTTP/1.0\r\n\r\n".encode())
        said = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert len(json.loads(said.split(b"\r\n\r\n", 1)[1])["result"]["resourceSpans"]) == 2
