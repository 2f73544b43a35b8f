"""Traces that the sampler leaves out: those that failed and the slowest arrive all the same, whole, and no others."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from expert_svc.engine import Chunk, Ended
from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh_client import AsyncClient, MeshError, Unavailable
from mesh_wire.asked import Asked
from mesh_wire.deadlines import Deadline
from mesh_wire.sampling import FEWEST
from mesh_wire.sketches import MOST_SPANS
from mesh_wire.telemetry import Telemetry, exporting
from mesh_wire.trace_context import NOBODY
from mesh_wire.untraced import RETOLD, nothing
from support.asking import greedy
from support.calls import failure, whole
from support.engines import Failing, FakeEngine, ended
from support.mesh import RunningRouter, running_expert, running_mesh
from support.otlp import Collector, collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

NONE = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
SERVER, CALL = "expertmesh.v1.InferenceService/Generate", "expert call"
START = "expertmesh.v1.InferenceService/Session/start"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENGINE = {"engine.submit", "engine.queue", "engine.prefill", "engine.decode", "engine.deliver"}
ROUTING = {"route.admit", "route.classify", "route.select"}


class Patient(FakeEngine):
    """Answers at once, but for prompts that say slow: they wait for the test."""

    def __init__(self) -> None:
        super().__init__("general")
        self.go = asyncio.Event()

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        if "slow" in request.prompt:
            await self.go.wait()
        yield Chunk("word ", [7])
        yield ended()


class FirstFails(FakeEngine):
    """Fails, if it is the first of several that is asked."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__("general")
        self._asked = asked

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        self._asked.append(request_id)
        if len(self._asked) == 1:
            raise Unavailable("gone", reason="ENGINE_DEAD")
        yield Chunk("word ", [7])
        yield ended()


@dataclass
class Ours:
    """A mesh, and the telemetry of its caller and of both its services."""

    mesh: RunningRouter
    client: Telemetry
    router: Telemetry
    expert: Telemetry


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@asynccontextmanager
async def left_out(collector: Collector, *, env: dict[str, str] | None = None, **mesh: Any) -> AsyncIterator[Ours]:
    """A mesh of which no trace is sampled. What is kept is with the collector once the block has ended."""
    env = NONE | (env or {})
    with (
        telemetry_to(collector, **env) as (router, expert),
        exporting("expertmesh-client", "c", env={**collector.env, **env}) as client,
    ):
        mesh.setdefault("strategy", ByWord({"sum": "general"}))
        async with running_mesh(**mesh, telemetry=router, expert_telemetry=expert) as running:
            yield Ours(running, client, router, expert)


def parts(collector: Collector) -> dict[str, set[str]]:
    """The names of the spans that arrived, by service; all must be of one trace, with every parent but the root's."""
    assert len({span.trace_id for span in collector.spans}) == 1
    ids = {span.span_id for span in collector.spans}
    assert len(ids) == len(collector.spans)
    assert sum(span.parent_id not in ids for span in collector.spans) == 1
    found: dict[str, set[str]] = {}
    for span in collector.spans:
        found.setdefault(span.service.removeprefix("expertmesh-"), set()).add(span.name)
    return found


async def slow_one(ours: Ours, ask: Any, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Ask until the service knows how fast it is, then once slowly: for twice as long as the longest before."""
    longest = 0.0
    for _ in range(FEWEST):
        began = time.monotonic()
        await ask("quick")
        longest = max(longest, time.monotonic() - began)
    engine = ours.mesh.experts["a"].engine
    began = time.monotonic()
    asked = asyncio.create_task(ask("slow"))
    await eventually(lambda: engine.held == 1 and time.monotonic() - began > 2 * longest)
    meanwhile()
    engine.go.set()
    await asked


# What is kept


async def test_a_failure_s_trace_arrives_whole_from_both_services(collector: Collector) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"), after_tokens=1)
    async with left_out(collector, experts={"a": engine}) as ours:
        error = await failure(ours.mesh.inference.Generate(greedy("sum")))

    assert error.reason == "ENGINE_DEAD"
    assert parts(collector) == {"router": {SERVER, CALL, *ROUTING}, "expert": {START}}
    [root] = collector.named(SERVER)
    assert root.failed
    assert root.message == "gone"
    assert root.attributes["expertmesh.kept"] == "error"
    assert root.attributes["error.type"] == "ENGINE_DEAD"
    [call], [expert] = collector.named(CALL), collector.named(START)
    assert expert.parent_id == call.span_id
    assert expert.failed
    assert expert.events == ["gen_ai.first_token"]


async def test_a_failure_that_another_replica_made_good_is_kept_with_both_attempts(collector: Collector) -> None:
    asked: list[str] = []
    async with left_out(collector, experts={"a": FirstFails(asked), "b": FirstFails(asked)}) as ours:
        await whole(ours.mesh.inference.Generate(greedy("sum")))

    assert parts(collector) == {"router": {SERVER, CALL, *ROUTING}, "expert": {START, *ENGINE}}
    [root] = collector.named(SERVER)
    assert not root.failed
    assert (root.attributes["expertmesh.kept"], root.attributes["expertmesh.attempt"]) == ("error", 2)
    first, second = sorted(collector.named(CALL), key=lambda span: span.start_ns)
    assert (first.failed, second.failed) == (True, False)
    assert (first.attributes["expertmesh.attempt"], second.attributes["expertmesh.attempt"]) == (1, 2)
    assert {span.parent_id: span.failed for span in collector.named(START)} == {
        first.span_id: True,
        second.span_id: False,
    }
    assert len(collector.named("route.select")) == 2


async def test_an_expert_that_is_asked_itself_decides_itself(collector: Collector) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"), after_tokens=1)
    with telemetry_to(collector, **NONE) as (_, telemetry):
        async with running_expert(engine=engine, telemetry=telemetry) as expert:
            await failure(expert.inference.Generate(greedy("sum")))

    [root] = collector.spans
    assert (root.name, root.failed, root.parent_id) == (SERVER, True, "")
    assert root.attributes["expertmesh.kept"] == "error"
    assert root.attributes["expertmesh.expert"] == "general"
    assert root.attributes["expertmesh.request_id"]


async def test_a_long_stream_that_fails_says_when_its_tokens_came(collector: Collector) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"), after_tokens=300)
    async with left_out(collector, experts={"a": engine}) as ours:
        await failure(ours.mesh.inference.Generate(greedy("sum")))

    for name in (SERVER, START):
        [span] = collector.named(name)
        assert span.events == ["gen_ai.first_token", "expertmesh.tokens"]


async def test_of_many_the_slow_one_arrives_and_no_fast_one(collector: Collector) -> None:
    async with left_out(collector, experts={"a": Patient()}) as ours:
        await slow_one(ours, lambda prompt: whole(ours.mesh.inference.Generate(greedy(prompt))))
        assert ours.router.tail is not None
        assert ours.router.tail.awaited.held == 0

    assert parts(collector)["expert"] == {START, *ENGINE}
    [root] = collector.named(SERVER)
    assert root.attributes["expertmesh.kept"] == "slow"
    assert root.parent_id == ""


@pytest.mark.parametrize("way", ["session", "direct"])
async def test_a_client_that_traces_decides_for_all(collector: Collector, way: str) -> None:
    async with (
        left_out(collector, experts={"a": Patient()}) as ours,
        AsyncClient(ours.mesh.target, telemetry=ours.client, direct=way == "direct") as client,
    ):
        await slow_one(ours, lambda prompt: client.generate(prompt).read())

    found = parts(collector)
    assert SERVER in found["client"]
    assert found["expert"] == {START, *ENGINE}
    if way == "session":
        assert found["router"] == {START, CALL, *ROUTING}
    else:
        assert "expertmesh.v1.RouterService/RouteSession/ask" in found["router"]
    assert {span.attributes.get("expertmesh.kept") for span in collector.spans} == {None, "slow"}


async def test_word_of_what_went_by_a_session_that_is_over_comes_by_the_next(collector: Collector) -> None:
    async with (
        left_out(collector, experts={"a": Patient()}) as ours,
        AsyncClient(ours.mesh.target, telemetry=ours.client) as client,
    ):
        await slow_one(ours, lambda prompt: client.generate(prompt).read(), meanwhile=client._places.now.sessions.renew)

    found = parts(collector)
    assert found == {"client": {SERVER}, "router": {START, CALL, *ROUTING}, "expert": {START, *ENGINE}}


async def test_over_generate_the_client_is_told(collector: Collector) -> None:
    async with (
        left_out(collector, experts={"a": Patient()}) as ours,
        AsyncClient(ours.mesh.target, telemetry=ours.client, over="generate") as client,
    ):
        await slow_one(ours, lambda prompt: client.generate(prompt).read())

    found = parts(collector)
    assert found == {"client": {SERVER}, "router": {SERVER, CALL, *ROUTING}, "expert": {START, *ENGINE}}
    kept = {span.service: span.attributes["expertmesh.kept"] for span in collector.named(SERVER)}
    assert kept == {"expertmesh-client": "told", "expertmesh-router": "slow"}


@pytest.mark.parametrize("over", ["session", "generate"])
async def test_a_client_s_failure_arrives_whole(collector: Collector, over: Any) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"), after_tokens=1)
    async with (
        left_out(collector, experts={"a": engine}) as ours,
        AsyncClient(ours.mesh.target, telemetry=ours.client, over=over) as client,
    ):
        with pytest.raises(MeshError):
            await client.generate("sum").read()

    assert parts(collector).keys() == {"client", "router", "expert"}


async def test_a_caller_s_own_trace_goes_on_though_its_caller_did_not_sample(collector: Collector) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"))
    traced = (("traceparent", f"00-{TRACE}-{CALLER}-00"), ("tracestate", "vendor=1,expertmesh=00f067aa0ba902b7"))
    async with left_out(collector, experts={"a": engine}) as ours:
        await failure(ours.mesh.inference.Generate(greedy("sum"), metadata=traced))

    assert {span.trace_id for span in collector.spans} == {TRACE}
    [root] = collector.named(SERVER)
    assert root.parent_id == CALLER
    assert root.attributes["expertmesh.kept"] == "error"  # the mark was another's: nobody else decides
    assert parts(collector)["expert"] == {START}


async def test_a_request_is_told_of_with_so_many_spans_and_its_own(collector: Collector) -> None:
    with telemetry_to(collector, **NONE) as (_, telemetry):
        asked = Asked(Deadline(), "", RETOLD, 0.0)
        for number in range(3 * MOST_SPANS):
            asked.note(("step", number, number + 1, nothing, None))
        asked.fails(Unavailable("gone", reason="ENGINE_DEAD"))
        assert telemetry.tail is not None
        asked.end(telemetry.tail, NOBODY, SERVER, {}, 0.0, None)

    assert len(collector.spans) == MOST_SPANS + 1
    assert collector.named(SERVER)


# What is not


async def test_an_answer_that_goes_well_leaves_nothing(collector: Collector) -> None:
    async with left_out(collector) as ours:
        async with AsyncClient(ours.mesh.target, telemetry=ours.client) as client:
            await client.generate("sum").read()
        await whole(ours.mesh.inference.Generate(greedy("sum")))

    assert not collector.spans


async def test_a_caller_that_leaves_is_no_failure(collector: Collector) -> None:
    engine = Patient()
    async with left_out(collector, experts={"a": engine}) as ours:
        call = ours.mesh.inference.Generate(greedy("slow"))
        await eventually(lambda: engine.held == 1)
        call.cancel()
        await eventually(lambda: engine.held == 0)

    assert not collector.spans


@pytest.mark.parametrize("tail", ["off", "slowest"])
async def test_failures_are_kept_only_where_they_are_asked_for(collector: Collector, tail: str) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"))
    async with left_out(collector, env={"EXPERTMESH_TRACE_TAIL": tail}, experts={"a": engine}) as ours:
        assert (ours.router.tail is None) == (tail == "off")
        await failure(ours.mesh.inference.Generate(greedy("sum")))

    assert not collector.spans


async def test_what_is_sampled_anyway_is_sent_once(collector: Collector) -> None:
    engine = Failing(Unavailable("gone", reason="ENGINE_DEAD"))
    async with left_out(collector, env={"OTEL_TRACES_SAMPLER_ARG": "0.999999"}, experts={"a": engine}) as ours:
        await failure(ours.mesh.inference.Generate(greedy("sum")))

    assert parts(collector) == {"router": {SERVER, CALL, *ROUTING}, "expert": {START}}
