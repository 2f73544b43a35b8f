"""What a request leaves in traces and metrics, received over real OTLP."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import long_streams
from mesh_wire.errors import BadInput, Busy, Unavailable
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.engines import ByHand, Failing
from support.mesh import RunningRouter, running_mesh
from support.otlp import Collector, Seen, collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

SERVER, CALL = "expertmesh.v1.InferenceService/Generate", "expert call"
START = "expertmesh.v1.InferenceService/Session/start"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=1"))
MARKER = "xyzzy"

STAGES = ("submit", "queue", "prefill", "decode", "deliver")
ENGINE = [f"expert engine.{stage} INTERNAL" for stage in STAGES]
ANSWERED = (f"router {CALL} CLIENT", [(f"expert {START} SERVER", ENGINE)])
TREE = [
    (
        f"router {SERVER} SERVER",
        ["router route.admit INTERNAL", "router route.classify INTERNAL", "router route.select INTERNAL", ANSWERED],
    )
]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@asynccontextmanager
async def traced_mesh(
    collector: Collector, *, env: dict[str, str] | None = None, **mesh: Any
) -> AsyncIterator[RunningRouter]:
    """A mesh whose spans and metrics are all with the collector once the block has ended."""
    with telemetry_to(collector, **(env or {})) as (router, expert):
        async with running_mesh(**mesh, telemetry=router, expert_telemetry=expert) as running:
            yield running


async def test_one_trace_goes_from_the_caller_to_the_engine(collector: Collector) -> None:
    async with traced_mesh(collector, strategy=ByWord({"sum": "general"})) as mesh:
        await whole(mesh.inference.Generate(greedy("sum"), metadata=TRACED))

    assert collector.tree(CALLER) == TREE
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert not any(span.failed for span in collector.spans)
    parents = {span.span_id: span for span in collector.spans}
    afterwards = ("route.admit", *(f"engine.{stage}" for stage in STAGES))  # from another clock
    for span in collector.spans:
        assert span.start_ns <= span.end_ns
        if (parent := parents.get(span.parent_id)) is not None and span.name not in afterwards:
            assert parent.start_ns <= span.start_ns
            assert span.end_ns <= parent.end_ns


async def test_the_same_tree_stands_under_a_session_s_start(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        talk = Talk(mesh.inference)
        await talk.start(1, greedy(), traceparent=TRACED[0][1])
        await talk.until_over(1)

    [(root, below)] = collector.tree(CALLER)
    assert root == f"router {START} SERVER"
    assert below == TREE[0][1]


async def test_a_caller_without_a_trace_gets_one_of_its_own(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        for _ in range(2):
            await whole(mesh.inference.Generate(greedy()))

    assert len(collector.tree("")) == 2
    assert len({span.trace_id for span in collector.spans}) == 2


async def test_spans_say_what_the_conventions_ask(collector: Collector) -> None:
    async with traced_mesh(collector, strategy=ByWord({"sum": "general"})) as mesh:
        request = greedy("sum")
        request.request_id = "mine"
        await whole(mesh.inference.Generate(request, metadata=TRACED))
        port = mesh.experts["a"].port

    [router], [call], [expert] = collector.named(SERVER), collector.named(CALL), collector.named(START)
    assert (
        router.attributes.items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "expertmesh.v1.InferenceService/Generate",
            "rpc.response.status_code": "OK",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "general",
            "gen_ai.usage.input_tokens": 2,
            "gen_ai.usage.output_tokens": 12,
            "expertmesh.request_id": "mine",
            "expertmesh.expert": "general",
            "expertmesh.replica": "a",
            "expertmesh.reason": "confident",
            "expertmesh.strategy": "by_word",
            "expertmesh.attempt": 1,
        }.items()
    )
    assert router.attributes["expertmesh.score"] == pytest.approx(0.9)
    assert (
        call.attributes.items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "expertmesh.v1.InferenceService/Session",
            "rpc.response.status_code": "OK",
            "server.address": "127.0.0.1",
            "server.port": port,
            "expertmesh.expert": "general",
            "expertmesh.replica": "a",
        }.items()
    )
    assert (
        expert.attributes.items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "expertmesh.v1.InferenceService/Session",
            "rpc.response.status_code": "OK",
            "gen_ai.provider.name": "simulated",
            "gen_ai.request.model": "general",
            "gen_ai.response.model": "simulated",
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": 2,
            "gen_ai.usage.output_tokens": 12,
            "expertmesh.request_id": "mine",
        }.items()
    )
    assert expert.attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert expert.events == ["gen_ai.first_token"]
    [classify], [select] = collector.named("route.classify"), collector.named("route.select")
    assert classify.attributes == {"expertmesh.strategy": "by_word", "expertmesh.artefact": "words-1"}
    assert select.attributes["expertmesh.reason"] == "confident"


async def test_resources_name_the_service_and_the_instance(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        await whole(mesh.inference.Generate(greedy()))

    named = {(span.service, span.instance) for span in collector.spans}
    assert named == {("expertmesh-router", "r"), ("expertmesh-expert", "a")}


async def test_engine_stages_lie_between_arrival_and_end(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        await whole(mesh.inference.Generate(greedy()))

    [start] = collector.named(START)
    stages = [collector.named(f"engine.{stage}")[0] for stage in STAGES]
    slack_ns = 5_000_000  # the two clocks are compared once per request
    assert start.start_ns - slack_ns <= stages[0].start_ns
    assert all(before.end_ns == after.start_ns for before, after in pairwise(stages)), "nothing lies between them"
    assert stages[-1].end_ns <= start.end_ns + slack_ns


async def test_both_attempts_stand_in_the_trace(collector: Collector) -> None:
    engines = {
        "a": Failing(Unavailable("gone", reason="ENGINE_DEAD")),
        "b": Failing(Unavailable("gone too", reason="ENGINE_DEAD")),
    }
    async with traced_mesh(collector, experts=engines) as mesh:
        await failure(mesh.inference.Generate(greedy(), metadata=TRACED))

    [router] = collector.named(SERVER)
    calls = collector.named(CALL)
    assert {call.attributes["expertmesh.replica"] for call in calls} == {"a", "b"}
    assert [call.parent_id for call in calls] == [router.span_id] * 2
    assert len(collector.named("route.select")) == 2
    assert router.attributes["expertmesh.attempt"] == 2
    for span in (router, *calls, *collector.named(START)):
        assert span.failed
        assert span.attributes["error.type"] == "ENGINE_DEAD"
        assert span.attributes["rpc.response.status_code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (BadInput("no", reason="REQUEST_REFUSED"), "INVALID_ARGUMENT", "REQUEST_REFUSED"),
        (Busy("full", reason="EXPERT_BUSY", retry_after_s=1), "RESOURCE_EXHAUSTED", "EXPERT_BUSY"),
        (ZeroDivisionError(MARKER), "INTERNAL", "ZeroDivisionError"),
    ],
)
async def test_a_failed_request_ends_its_spans_with_the_reason(
    collector: Collector, error: Exception, code: str, kind: str
) -> None:
    async with traced_mesh(collector, experts={"a": Failing(error)}) as mesh:
        await failure(mesh.inference.Generate(greedy(), metadata=TRACED))

    [expert], [router] = collector.named(START), collector.named(SERVER)
    assert expert.failed
    assert (expert.attributes["rpc.response.status_code"], expert.attributes["error.type"]) == (code, kind)
    assert router.failed
    assert router.attributes["rpc.response.status_code"] == code
    assert MARKER.encode() not in collector.raw


async def test_refused_input_ends_its_span_though_nothing_was_asked(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        await failure(mesh.inference.Generate(GenerateRequest(), metadata=TRACED))
        await failure(mesh.inference.Generate(GenerateRequest(prompt="a", request_id="x" * 5000), metadata=TRACED))

    assert [span.name for span in collector.spans] == [SERVER] * 2
    assert [span.attributes["error.type"] for span in collector.spans] == ["INPUT_MISSING", "NAME_INVALID"]
    assert b"x" * 1000 not in collector.raw


async def test_a_caller_that_leaves_ends_its_spans(collector: Collector) -> None:
    engine = ByHand()
    async with traced_mesh(collector, experts={"a": engine}) as mesh:
        call = mesh.inference.Generate(greedy(), metadata=TRACED)
        await eventually(lambda: engine.held == 1)
        call.cancel()
        await eventually(lambda: engine.held == 0)

    ended = [*collector.named(SERVER), *collector.named(CALL), *collector.named(START)]
    assert len(ended) == 3
    for span in ended:
        assert span.attributes["rpc.response.status_code"] == "CANCELLED"
        assert not span.failed  # leaving is the caller's right


async def test_a_deadline_that_passes_ends_its_spans(collector: Collector) -> None:
    engine = ByHand()
    async with traced_mesh(collector, experts={"a": engine}) as mesh:
        talk = Talk(mesh.inference)
        await talk.start(1, greedy(), timeout_s=0.1, traceparent=TRACED[0][1])
        await talk.until_over(1)
        await eventually(lambda: engine.held == 0)

    [router] = collector.named(START, "expertmesh-router")
    assert router.failed
    assert router.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert len(collector.named(START, "expertmesh-expert")) == 1


async def test_route_is_traced(collector: Collector) -> None:
    from expertmesh.v1.router_pb2 import RouteRequest

    async with traced_mesh(collector) as mesh:
        await mesh.routing.Route(RouteRequest(request=greedy()), metadata=TRACED)
        await failure(mesh.routing.Route(RouteRequest(), metadata=TRACED))

    good, bad = collector.named("expertmesh.v1.RouterService/Route")
    assert (good.kind, good.parent_id, good.attributes["rpc.response.status_code"]) == ("SERVER", CALLER, "OK")
    assert (bad.failed, bad.attributes["error.type"]) == (True, "INPUT_MISSING")
    below = [name for name in collector.tree(good.span_id) if isinstance(name, str)]
    assert [name.split()[1] for name in below] == ["route.admit", "route.classify", "route.select"]


async def test_no_word_of_a_prompt_or_an_answer_is_in_any_span_metric_or_log(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mesh_wire")
    caplog.set_level(logging.DEBUG, logger="router_svc")
    caplog.set_level(logging.DEBUG, logger="expert_svc")
    engine = ByHand()
    async with traced_mesh(collector, experts={"a": engine}) as mesh:
        call = mesh.inference.Generate(greedy(f"{MARKER} prompt", stop=[f"{MARKER} stop"]), metadata=TRACED)
        await eventually(lambda: engine.held == 1)
        engine.say(f"{MARKER} answer")
        engine.finish()
        assert MARKER in (await whole(call)).text
        schema = {"structured_output": {"json_schema": f"{{{MARKER}"}}
        assert (await failure(mesh.inference.Generate(greedy(MARKER, **schema)))).reason == "STRUCTURE_INVALID"
        cancelled = mesh.inference.Generate(greedy(MARKER))
        await eventually(lambda: engine.held == 1)
        cancelled.cancel()
        await eventually(lambda: engine.held == 0)
        failing = mesh.inference.Generate(greedy(MARKER))
        await eventually(lambda: engine.held == 1)
        engine.fail(KeyError("something else"))
        assert (await failure(failing)).reason == "INTERNAL"

    assert len(collector.spans) > 10
    assert collector.metrics
    assert MARKER.encode() not in collector.raw
    assert MARKER not in caplog.text
    assert "something else" in caplog.text


# Metrics


async def test_metrics_arrive_under_their_conventional_names(collector: Collector) -> None:
    async with traced_mesh(collector, strategy=ByWord({"sum": "general"}), max_in_flight=1) as mesh:
        for _ in range(3):
            await whole(mesh.inference.Generate(greedy("sum")))
        mesh.experts["a"].engine.stall()
        inside = mesh.inference.Generate(greedy("sum"))
        await eventually(lambda: mesh.experts["a"].engine.held == 1)
        await failure(mesh.inference.Generate(greedy("sum")))
        mesh.experts["a"].engine.resume()
        await whole(inside)

    assert set(collector.metrics) >= {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "expertmesh.requests.in_flight",
        "expertmesh.admission.refused",
        "expertmesh.route.decisions",
        "expertmesh.route.classify.duration",
    }
    assert sum(point.count for point in collector.metrics["gen_ai.server.time_to_first_token"]) == 8
    assert sum(point.count for point in collector.metrics["expertmesh.route.classify.duration"]) == 4
    assert [point.as_int for point in collector.metrics["expertmesh.requests.in_flight"]] == [0, 0]
    assert [point.as_int for point in collector.metrics["expertmesh.admission.refused"]] == [1]
    [decisions] = collector.metrics["expertmesh.route.decisions"]
    labels = {label.key: label.value.string_value for label in decisions.attributes}
    assert (decisions.as_int, labels) == (4, {"expertmesh.expert": "general", "expertmesh.reason": "confident"})


async def test_durations_are_told_apart_by_how_they_ended(collector: Collector) -> None:
    engine = ByHand()
    async with traced_mesh(collector, experts={"a": engine}) as mesh:
        await failure(mesh.inference.Generate(GenerateRequest()))
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        call.cancel()
        await eventually(lambda: engine.held == 0)

    ends = [
        {label.key: label.value.string_value for label in point.attributes}["rpc.response.status_code"]
        for point in collector.metrics["gen_ai.server.request.duration"]
    ]
    assert sorted(ends) == ["CANCELLED", "CANCELLED", "INVALID_ARGUMENT"]


async def test_a_stream_shows_in_its_trace_while_it_runs(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_streams, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(long_streams, "FIRST_PROGRESS_S", 0.02)
    env = {"OTEL_BSP_SCHEDULE_DELAY": "20", "EXPERTMESH_TRACE_STRIDE": "3"}
    engine = ByHand()
    async with traced_mesh(collector, env=env, experts={"a": engine}) as mesh:
        call = mesh.inference.Generate(greedy(max_new_tokens=50), metadata=TRACED)
        await eventually(lambda: engine.held == 1)
        for _ in range(3):
            engine.say()
        await eventually(
            lambda: {word.service for word in told(collector)} == {"expertmesh-router", "expertmesh-expert"}
        )
        assert not collector.named(SERVER)
        assert not collector.named(START)
        engine.finish()
        await whole(call)

    [router], [expert] = collector.named(SERVER), collector.named(START)
    assert router.events == expert.events == ["gen_ai.first_token", "expertmesh.tokens"]
    parents = {"expertmesh-router": router.span_id, "expertmesh-expert": expert.span_id}
    for word in told(collector):
        assert word.trace_id == TRACE
        assert word.parent_id == parents[word.service]
        assert word.attributes["expertmesh.request_id"]
        assert word.attributes["expertmesh.expert"] == "general"


def told(collector: Collector) -> list[Seen]:
    """Word of a stream with all its tokens so far, as it arrived."""
    return [word for word in collector.named("stream.progress") if word.attributes["gen_ai.usage.output_tokens"] == 3]


# Off, and in part


async def test_off_sends_nothing_and_changes_nothing(collector: Collector) -> None:
    async with traced_mesh(collector, env={"OTEL_SDK_DISABLED": "true"}) as mesh:
        assert (await whole(mesh.inference.Generate(greedy(), metadata=TRACED))).finished

    assert not collector.raw


def test_off_does_not_even_load_the_sdk() -> None:
    code = (
        "import sys, threading\n"
        "from mesh_wire.telemetry import exporting\n"
        "with exporting('s', 'i', env={}) as telemetry:\n"
        "    assert not telemetry.enabled\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')], threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # ours

    assert done.stdout == "[] 1\n"


async def test_metrics_alone(collector: Collector) -> None:
    async with traced_mesh(collector, env={"OTEL_TRACES_EXPORTER": "none"}) as mesh:
        await whole(mesh.inference.Generate(greedy(), metadata=TRACED))

    assert not collector.spans
    assert collector.metrics


async def test_traces_alone(collector: Collector) -> None:
    async with traced_mesh(collector, env={"OTEL_METRICS_EXPORTER": "none"}) as mesh:
        await whole(mesh.inference.Generate(greedy(), metadata=TRACED))

    assert collector.spans
    assert not collector.metrics


@pytest.mark.parametrize("tail", ["off", "errors"])
async def test_a_ratio_of_traces_is_kept_whole(collector: Collector, tail: str) -> None:
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    async with traced_mesh(collector, env={**ratio, "EXPERTMESH_TRACE_TAIL": tail}) as mesh:
        for _ in range(60):
            await whole(mesh.inference.Generate(greedy(max_new_tokens=1)))

    roots = collector.tree("")
    assert 5 < len(roots) < 55
    assert len(collector.spans) == (6 + len(STAGES)) * len(roots)


async def test_a_caller_that_does_not_sample_is_not_sampled(collector: Collector) -> None:
    async with traced_mesh(collector) as mesh:
        unsampled = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)
        await whole(mesh.inference.Generate(greedy(), metadata=unsampled))

    assert not collector.spans


async def test_a_collector_that_is_away_harms_no_answer() -> None:
    env = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_METRICS_EXPORTER": "none"}
    with collecting() as gone:
        pass
    async with traced_mesh(gone, env=env) as mesh:
        assert (await whole(mesh.inference.Generate(greedy(), metadata=TRACED))).finished
