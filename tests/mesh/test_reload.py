"""Another mesh file or artefact while the router serves: nobody notices but by what is decided."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from expertmesh_client import AsyncClient
from mesh_wire.errors import MeshError
from mesh_wire.settings import Simulation
from mesh_wire.telemetry import Telemetry
from router_svc import tending
from router_svc.reloading import reload
from router_svc.strategies.artefact import MANIFEST, TENSORS, Artefact, load, save
from support.asking import greedy
from support.calls import whole
from support.corpora import small_artefact, small_lexical
from support.mesh import RunningExpert, running_expert
from support.reloading import Watched, watched_router, write_mesh
from support.waiting import eventually
from support.workers import callers, running_workers

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SUM = "prove the theorem of this equation, a sum"
UNCLEAR = "a sum and a bug"
BUG = "compile the python function, a bug"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(tending, "TELL_EVERY_S", 0.02)


@pytest.fixture
async def expert() -> AsyncIterator[RunningExpert]:
    async with running_expert("general", "math", "coding") as expert:
        yield expert


@pytest.fixture
async def watched(tmp_path: Path, expert: RunningExpert) -> AsyncIterator[Watched]:
    save(tmp_path / "one", small_lexical())
    async with watched_router(tmp_path, expert.target, strategy="lexical", artefact="one", threshold=0.3) as watched:
        yield watched


def other_lexical() -> Artefact:
    """The small lexical layer with two experts exchanged, and other figures."""
    names = {"math": "coding", "coding": "math"}
    fitted = small_lexical()
    tensors = {**fitted.tensors, "bias": fitted.tensors["bias"] + np.float32(0.5)}
    return replace(fitted, experts=tuple(names.get(name, name) for name in fitted.experts), tensors=tensors)


async def test_the_first_generation_is_1(watched: Watched) -> None:
    assert (await watched.router.fleet()).generation == 1
    assert (await watched.route(SUM)).generation == 1
    assert (await watched.route(SUM, expert="math")).generation == 1


async def test_a_policy_is_taken_from_the_file(watched: Watched) -> None:
    assert (await watched.route(UNCLEAR)).expert != "general"

    watched.write(threshold=0.99)
    await watched.becomes(2)

    route = await watched.route(UNCLEAR)
    assert (route.expert, route.generation) == ("general", 2)


async def test_an_artefact_that_is_written_over_is_taken(watched: Watched, tmp_path: Path) -> None:
    name = save(tmp_path / "one", other_lexical())
    await watched.becomes(2)

    route = await watched.route(SUM)
    assert (route.expert, route.artefact) == ("coding", name)
    assert (await watched.router.fleet()).artefact == name


async def test_another_strategy_and_folder_are_taken_and_that_folder_is_watched_then(
    watched: Watched, tmp_path: Path
) -> None:
    save(tmp_path / "two", small_artefact())
    watched.write(strategy="clusters", artefact="two")
    await watched.becomes(2)
    assert (await watched.route(SUM)).strategy == "clusters"

    save(tmp_path / "two", replace(small_artefact(), settings={"changed": True}))
    await watched.becomes(3)


async def test_a_bad_file_leaves_the_old_one_and_is_named_with_its_lines_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.write(threshold=7, generalist="")

    said = await watched.is_refused()
    assert "mesh.yaml:" in said
    assert "router.threshold" in said
    assert "router.generalist" in said
    watched.config.touch()
    await watched.is_refused()
    assert (await watched.route(SUM)).generation == 1
    refusals = [record for record in caplog.records if "is not taken" in record.getMessage()]
    assert [record.levelno for record in refusals] == [logging.ERROR]

    watched.write(threshold=0.3, generalist="general")
    await watched.is_well()
    assert (await watched.router.fleet()).generation == 1, "it is again what is served"


async def test_health_says_whether_the_file_is_served(watched: Watched) -> None:
    await eventually(lambda: watched.router.server.health._server_status.get(tending.CONFIG) == SERVING)
    watched.write(threshold=7)
    await watched.is_refused()

    async def told() -> bool:
        return await watched.router.health(tending.CONFIG) == NOT_SERVING

    await eventually(told)
    assert await watched.router.health() == SERVING
    assert await watched.router.health("expertmesh.v1.RouterService") == SERVING


async def test_a_half_written_artefact_is_not_taken(watched: Watched, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    name = save(whole, other_lexical())
    (tmp_path / "one" / TENSORS).write_bytes((whole / TENSORS).read_bytes())
    watched.write(affinity_ms=7)  # is not taken either, since the artefact is not whole
    assert TENSORS in await watched.is_refused()
    assert (await watched.route(SUM)).expert == "math"

    for path in whole.iterdir():
        (tmp_path / "one" / path.name).write_bytes(path.read_bytes())
    await watched.becomes(2)
    assert (await watched.route(SUM)).artefact == name


async def test_files_in_any_order_are_taken_once_all_are_there(watched: Watched, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save(whole, replace(other_lexical(), words=tuple(f"{word}x" for word in small_lexical().words)))
    (tmp_path / "one" / MANIFEST).write_bytes((whole / MANIFEST).read_bytes())
    await watched.is_refused(str(tmp_path / "one"))

    for path in whole.iterdir():
        (tmp_path / "one" / path.name).write_bytes(path.read_bytes())
    await watched.becomes(2)


async def test_experts_join_and_leave_by_the_file(watched: Watched, expert: RunningExpert) -> None:
    async with running_expert("law", name="b") as other:
        watched.write(targets=[expert.target, other.target])
        await watched.becomes(2)
        assert (await watched.route("hello", expert="law")).replica == "b"
        assert await watched.router.serving() == ["a", "b"]

        watched.write(targets=[expert.target])
        await watched.becomes(3)
        assert await watched.router.serving() == ["a"]


async def test_what_only_a_restart_takes_is_named_and_the_rest_is_taken(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.write(threshold=0.99, workers=3, reflection=False)
    await watched.becomes(2)

    assert list((await watched.router.fleet()).left_for_restart) == ["router.reflection", "router.workers"]
    assert "only a restart takes what has changed about router.reflection, router.workers" in caplog.text
    assert (await watched.route(UNCLEAR)).expert == "general"


async def test_how_experts_are_greeted_cannot_change(watched: Watched) -> None:
    watched.write(expert_tls={}, threshold=0.99)
    assert "router.expert_tls cannot change" in await watched.is_refused()
    assert (await watched.route(UNCLEAR)).expert != "general"


async def test_a_control_chooses_among_the_experts_of_the_new_file(tmp_path: Path, expert: RunningExpert) -> None:
    async with watched_router(tmp_path, expert.target, strategy="pinned", pinned="math") as watched:
        assert (await watched.route()).expert == "math"
        watched.write(pinned="coding")
        await watched.becomes(2)
        assert (await watched.route()).expert == "coding"


async def test_outcomes_and_the_generation_are_metrics(tmp_path: Path, expert: RunningExpert) -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(MeterProvider(metric_readers=[reader]).get_meter("test"))
    async with watched_router(tmp_path, expert.target, telemetry=telemetry) as watched:
        watched.write(threshold=0.9)
        await watched.becomes(2)
        watched.write(threshold=9)
        await watched.is_refused()
        data = reader.get_metrics_data()
    assert data is not None
    found = {one.name: one.data.data_points for one in data.resource_metrics[0].scope_metrics[0].metrics}

    assert found["expertmesh.generation"][0].value == 2
    outcomes = {point.attributes["expertmesh.outcome"]: point.value for point in found["expertmesh.reloads"]}
    assert outcomes == {"taken": 1, "refused": 1}


async def asked(client: AsyncClient, until: asyncio.Event, wrong: list[str], generations: set[int]) -> int:
    """Ask until told to stop; returns how often."""
    count = 0
    while not until.is_set():
        try:
            answer = client.generate((SUM, BUG)[count % 2], sampling={"temperature": 0, "max_new_tokens": 4})
            text = await answer.read()
            assert answer.route is not None
            generations.add(answer.route.generation)
            if not text:
                wrong.append("an empty answer")
        except MeshError as error:
            wrong.append(str(error))
        count += 1
    return count


async def test_nobody_notices_twenty_changes_good_and_bad(tmp_path: Path) -> None:
    save(tmp_path / "one", small_lexical())
    wrong: list[str] = []
    generations: set[int] = set()
    stop = asyncio.Event()
    simulation = Simulation(step_base_s=0.001)
    fields: dict[str, Any] = {"strategy": "lexical", "artefact": "one", "threshold": 0.3}
    async with (
        running_expert("general", "math", "coding", simulation=simulation) as expert,
        running_expert("general", "math", "coding", name="b", simulation=simulation) as other,
        watched_router(tmp_path, expert.target, other.target, **fields) as watched,
        AsyncClient(watched.router.target, over="session") as by_session,
        AsyncClient(watched.router.target, over="generate") as by_generate,
    ):
        both = [by_session, by_generate] * 4
        asking = [asyncio.create_task(asked(client, stop, wrong, generations)) for client in both]
        generation = 1
        for turn in range(5):
            save(tmp_path / "one", replace(other_lexical() if turn % 2 == 0 else small_lexical(), mapping={"n": turn}))
            generation += 1
            await watched.becomes(generation)
            watched.write(threshold=-1)
            await watched.is_refused("threshold")
            targets = [expert.target] if turn % 2 == 0 else [expert.target, other.target]
            watched.write(threshold=0.2 + turn / 20, targets=targets)
            generation += 1
            await watched.becomes(generation)
            good = (tmp_path / "one" / MANIFEST).read_bytes()
            (tmp_path / "one" / MANIFEST).write_bytes(good[: len(good) // 2])
            await watched.is_refused(MANIFEST)
            (tmp_path / "one" / MANIFEST).write_bytes(good)
            await watched.is_well()
        before = load(tmp_path / "one").id
        stop.set()
        counts = await asyncio.gather(*asking)
        assert (await watched.route(SUM)).artefact == before

    assert not wrong
    assert generation == 11
    assert len(generations) > 5
    assert max(generations) <= generation
    assert min(counts) > 20


async def test_each_worker_takes_the_file_and_one_started_later_begins_with_it(tmp_path: Path) -> None:
    async with (
        running_expert("general", "math") as expert,
        running_workers(tmp_path, expert.target, strategy="pinned", pinned="general") as router,
        callers() as ours,
    ):
        config = tmp_path / "mesh.yaml"
        section = json.loads(config.read_text())["router"]

        write_mesh(config, {**section, "pinned": "math", "threshold": 0.7})
        await eventually(lambda: router.count("generation 2 serves") == 2)
        os.kill(router.workers()[1], signal.SIGKILL)
        await router.serve(3)

        stubs = await ours.inference(router.target, 14)
        routes = [(await whole(stub.Generate(greedy()))).route for stub in stubs]
    assert {route.expert for route in routes if route} == {"math"}
    assert router.count("generation 2 serves") == 2, "the third begins with it"
