"""What `docs/tracing.md` says of traces is what a mesh sends."""

import asyncio
import re
from pathlib import Path

import pytest

from expertmesh_client import AsyncClient
from mesh_wire import awaiting, long_streams, sampling, sketches, tail
from mesh_wire.telemetry import exporting
from support.asking import greedy
from support.engines import ByHand
from support.mesh import running_mesh
from support.otlp import collecting, telemetry_to
from support.strategies import ByWord
from support.waiting import eventually

GUIDE = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
NAME = re.compile(r"^ *(?:\w+ +(?=expertmesh))?(\S.*?) +(CLIENT|SERVER|INTERNAL)\b", re.MULTILINE)


async def test_the_guide_has_every_span_of_a_request_with_its_kind_and_every_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_streams, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(long_streams, "FIRST_PROGRESS_S", 0.02)
    env = {"OTEL_BSP_SCHEDULE_DELAY": "20", "EXPERTMESH_TRACE_STRIDE": "1"}
    with (
        collecting() as collector,
        telemetry_to(collector, **env) as (router, expert),
        exporting("expertmesh-client", "c", env={**collector.env, **env}) as ours,
    ):
        engine = ByHand()
        strategy = ByWord({"sum": "general"})
        async with (
            running_mesh({"a": engine}, strategy=strategy, telemetry=router, expert_telemetry=expert) as mesh,
            AsyncClient(mesh.target, telemetry=ours, over="generate") as client,
        ):
            reading = asyncio.create_task(client.generate("sum", sampling=greedy().sampling).read())
            await eventually(lambda: engine.held == 1)
            engine.say()
            await eventually(lambda: collector.named("stream.progress"))
            engine.finish()
            await reading

    tree = GUIDE.split("## The tree")[1].split("```")[1]
    told = set(NAME.findall(tree))
    assert {(span.name, span.kind) for span in collector.spans} == told
    said = set(re.findall(r"`([a-z_.]+)`", GUIDE))
    assert {event for span in collector.spans for event in span.events} <= said
    progress = set(collector.named("stream.progress")[0].attributes)
    assert progress - {"expertmesh.stream.seconds"} <= said


def test_the_guide_s_bounds_and_settings_are_those_of_the_code() -> None:
    assert f"{awaiting.WAITING:,}, {awaiting.WAITING_S:g} s" in GUIDE
    assert f"| {sketches.MOST_SPANS} |" in GUIDE
    assert f"{sampling.PER_S:g} a second, {sampling.BURST:g} at once" in GUIDE
    assert f"of the {sampling.RECENT} before it, of its kind" in GUIDE
    assert f"before the first {sampling.FEWEST} nobody knows" in GUIDE
    assert f"every {long_streams.STRIDE} tokens" in GUIDE
    assert f"after {long_streams.FIRST_PROGRESS_S:g} s, then" in GUIDE
    assert f"`{tail.KEPT_HEADER}`" in GUIDE
