"""What Prometheus finds at a router and at an expert."""

import asyncio
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mesh_wire import metrics
from mesh_wire.telemetry import exporting
from support.asking import greedy
from support.calls import failure, whole
from support.mesh import running_expert, running_mesh, running_router
from support.metrics import TOLD, Told, scrape, scraped, told_by_a_fleet, values
from support.otlp import collecting
from support.waiting import eventually
from support.workers import ENV, running_workers, supervised

MARKER = "xyzzy"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told_by_a_fleet(tmp_path_factory.mktemp("fleet"))


def test_a_router_tells_of_routes_refusals_and_second_attempts(told: Told) -> None:
    found = told.router

    def count(name: str, **wanted: str) -> float:
        return sum(values(found, name, **wanted))

    assert count("expertmesh_route_decisions_total", expertmesh_expert="math", expertmesh_reason="confident") == 1
    assert count("expertmesh_route_decisions_total", expertmesh_expert="law") == 1
    assert count("expertmesh_route_second_attempts_total", expertmesh_expert="law", error_type="ENGINE_DEAD") == 1
    assert count("expertmesh_route_resumes_total", expertmesh_expert="riddles") >= 1
    assert count("expertmesh_admission_refused_total") == 1
    assert count("expertmesh_admission_refused_total", error_type="ROUTER_BUSY") == 1
    assert count("gen_ai_server_time_to_first_token_seconds_count", gen_ai_request_model="general") == 1
    assert count("expertmesh_tokens_total", expertmesh_expert="math") == 12
    assert count("expertmesh_direct_tokens_total", expertmesh_expert="health") == 12
    assert count("expertmesh_reloads_total", expertmesh_outcome="taken") == 1
    assert count("expertmesh_generation") == 2
    assert count("rpc_server_call_duration_seconds_count", rpc_response_status_code="OK") >= 200


def test_a_router_tells_how_each_replica_is(told: Told) -> None:
    found, endpoint = told.router, told.endpoint

    assert values(found, "expertmesh_replica_up", expertmesh_replica="a", expertmesh_endpoint=endpoint) == [1]
    assert values(found, "expertmesh_replica_up", expertmesh_replica="gone") == [1]
    for name in ("running", "waiting", "kv_cache_use", "outstanding"):
        assert values(found, f"expertmesh_replica_{name}", expertmesh_replica="a") == [0], name
    [wait_s] = values(found, "expertmesh_replica_expected_wait_seconds", expertmesh_replica="a")
    assert wait_s > 0
    assert values(found, "expertmesh_expert_replicas", expertmesh_expert="math", expertmesh_state="up") == [1]
    assert values(found, "expertmesh_expert_replicas", expertmesh_expert="math", expertmesh_state="down") == [0]
    assert values(found, "expertmesh_fleet_unreachable") == [0]


def test_an_expert_tells_of_its_engine(told: Told) -> None:
    found = told.expert

    assert values(found, "expertmesh_engine_tokens_total") == [4 * 12]
    assert values(found, "expertmesh_engine_running") == values(found, "expertmesh_engine_waiting") == [0]
    assert values(found, "expertmesh_engine_kv_cache_use") == [0]
    assert values(found, "expertmesh_admission_refused_total") == [1]
    [refused] = values(found, "expertmesh_admission_refused_total", error_type="EXPERT_BUSY")
    assert refused == 1


async def test_load_is_seen_while_it_lasts() -> None:
    with (
        scraped("expertmesh-router", "r") as (of_router, router),
        scraped("expertmesh-expert", "a") as (of_expert, own),
    ):
        async with running_mesh(telemetry=of_router, expert_telemetry=of_expert) as mesh:
            mesh.experts["a"].engine.stall()
            inside = mesh.inference.Generate(greedy())
            await eventually(lambda: mesh.experts["a"].engine.held == 1)

            async def seen() -> bool:
                there, here = await asyncio.gather(asyncio.to_thread(scrape, router), asyncio.to_thread(scrape, own))
                engine = values(here, "expertmesh_engine_running") + values(here, "expertmesh_engine_waiting")
                told = values(there, "expertmesh_replica_running") + values(there, "expertmesh_replica_waiting")
                outstanding = values(there, "expertmesh_replica_outstanding")
                return sum(engine) == sum(told) == sum(outstanding) == 1

            await eventually(seen)
            mesh.experts["a"].engine.resume()
            await whole(inside)


async def test_a_replica_that_is_gone_is_down_and_has_no_load() -> None:
    with scraped("expertmesh-router", "r") as (telemetry, url):
        async with AsyncExitStack() as life:
            brief = AsyncExitStack()
            expert = await brief.enter_async_context(running_expert("math", name="brief"))
            life.push_async_callback(brief.aclose)
            await life.enter_async_context(running_router(expert.target, telemetry=telemetry, serves=["math"]))
            assert values(await asyncio.to_thread(scrape, url), "expertmesh_replica_up") == [1]
            await brief.aclose()

            async def down() -> bool:
                found = await asyncio.to_thread(scrape, url)
                return values(found, "expertmesh_replica_up", expertmesh_replica="brief") == [0]

            await eventually(down)
            found = await asyncio.to_thread(scrape, url)
            assert not values(found, "expertmesh_replica_running")
            assert values(found, "expertmesh_expert_replicas", expertmesh_state="down") == [1]


def test_buckets_are_those_that_fit_language_models(told: Told) -> None:
    bounds = {
        "gen_ai_server_request_duration_seconds": metrics.REQUEST_BOUNDS,
        "gen_ai_server_time_to_first_token_seconds": metrics.FIRST_TOKEN_BOUNDS,
        "gen_ai_server_time_per_output_token_seconds": metrics.PER_TOKEN_BOUNDS,
        "expertmesh_route_margin": metrics.MARGIN_BOUNDS,
        "expertmesh_route_classify_duration_seconds": metrics.CLASSIFY_BOUNDS,
        "rpc_server_call_duration_seconds": metrics.CALL_BOUNDS,
    }
    found = told.router
    for name, wanted in bounds.items():
        buckets = {float(one.labels["le"]) for one in found[name].samples if one.name == f"{name}_bucket"}
        assert buckets == {*wanted, float("inf")}, name


async def test_what_a_caller_writes_is_in_no_label() -> None:
    with (
        scraped("expertmesh-router", "r") as (of_router, router),
        scraped("expertmesh-expert", "a") as (of_expert, own),
    ):
        async with running_mesh(telemetry=of_router, expert_telemetry=of_expert) as mesh:
            request = greedy(MARKER)
            request.request_id = request.conversation = MARKER
            await whole(mesh.inference.Generate(request))
            request.expert = MARKER  # which nobody serves
            assert (await failure(mesh.inference.Generate(request))).reason == "EXPERT_UNKNOWN"
            assert (await failure(mesh.experts["a"].inference.Generate(request))).reason == "EXPERT_UNKNOWN"
            for url in (router, own):
                found = await asyncio.to_thread(scrape, url)
                assert sum(values(found, "gen_ai_server_request_duration_seconds_count")) == 2
                assert not [one for family in found.values() for one in family.samples if MARKER in str(one.labels)]


def test_scrapes_at_the_same_time_each_find_everything_once() -> None:
    with scraped("expertmesh-router", "r") as (telemetry, url), ThreadPoolExecutor(8) as pool:
        for number in range(200):
            telemetry.instruments.decisions.add(1, {"expertmesh.expert": f"expert-{number}"})
        for families in pool.map(scrape, [url] * 32):
            samples = [(one.name, *one.labels.items()) for family in families.values() for one in family.samples]
            assert len(samples) == len(set(samples)) == 200 + 1  # and who tells


async def test_metrics_go_to_prometheus_and_by_otlp_at_once() -> None:
    with collecting() as collector:
        with scraped("expertmesh-router", "r", **collector.env) as (telemetry, url):
            assert telemetry.enabled
            telemetry.instruments.reloads.add(1, {"expertmesh.outcome": "taken"})
            assert values(await asyncio.to_thread(scrape, url), "expertmesh_reloads_total") == [1]
        assert [point.as_int for point in collector.metrics["expertmesh.reloads"]] == [1]


async def test_without_otlp_there_are_metrics_and_no_spans() -> None:
    with scraped("expertmesh-router", "r") as (telemetry, url):
        assert not telemetry.enabled
        telemetry.instruments.reloads.add(1, {"expertmesh.outcome": "taken"})
        assert values(await asyncio.to_thread(scrape, url), "expertmesh_reloads_total") == [1]


def test_a_disabled_sdk_has_no_endpoint() -> None:
    with exporting("s", "i", env={"OTEL_SDK_DISABLED": "true"}, metrics_at="127.0.0.1:0") as telemetry:
        telemetry.instruments.reloads.add(1)
        assert not telemetry.enabled


def test_an_address_that_is_taken_is_named() -> None:
    with scraped("s", "i") as (_, url):
        address = url.removeprefix("http://").removesuffix("/metrics")
        with (
            pytest.raises(OSError, match=f"cannot listen on {address}, for metrics"),
            exporting("s", "i", env={}, metrics_at=address),
        ):
            pass


async def test_each_worker_of_a_router_has_metrics_of_its_own(tmp_path: Path) -> None:
    async with (
        running_expert() as expert,
        running_workers(tmp_path, expert.target, workers=2, metrics="127.0.0.1:0") as router,
    ):
        urls = TOLD.findall(router.said)
        found = [await asyncio.to_thread(scrape, url) for url in urls]

    assert len(set(urls)) == 2
    instances = {one.labels["service_instance_id"] for families in found for one in families["target_info"].samples}
    assert {re.sub(r".* worker ", "", instance) for instance in instances} == {"1", "2"}


async def test_the_environment_alone_can_ask_for_the_endpoint(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(
        "router: {strategy: round_robin}\n"
        "experts: [{name: a, listen: '127.0.0.1:0', serves: {general: }, simulated: {}}]\n"
    )
    env = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    }
    async with supervised(tmp_path, "-m", "expert_svc", "--config", str(config), **(ENV | env)) as expert:
        await eventually(lambda: expert.count("a serves general") == 1)
        [url] = TOLD.findall(expert.said)
        found = await asyncio.to_thread(scrape, url)

    assert values(found, "expertmesh_engine_tokens_total") == [0]


def test_curl_and_a_browser_get_text() -> None:
    with scraped("s", "i") as (_, url), urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # ours
        assert str(answer.headers["Content-Type"]).startswith("text/plain")
