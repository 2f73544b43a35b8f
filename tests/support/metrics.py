"""Scraping metrics as Prometheus does, in tests."""

import asyncio
import logging
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from expertmesh_client import AsyncClient
from mesh_wire.errors import Unavailable
from mesh_wire.telemetry import Telemetry, exporting
from router_svc.classifying.drift import LEAST
from router_svc.strategies.artefact import save
from support.asking import greedy
from support.calls import failure, whole
from support.corpora import corpus, small_lexical
from support.engines import Failing
from support.mesh import running_expert
from support.reloading import watched_router
from support.waiting import eventually

TOLD = re.compile(r"metrics are at (\S+)")
Families = dict[str, Metric]  # by name


def scrape(url: str) -> Families:
    """Return what an endpoint exports."""
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # ours
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def values(families: Families, sample: str, **labels: str) -> list[float]:
    """Return the values of all samples of that name which have these labels."""
    return [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]


def labels(families: Families) -> dict[str, set[str]]:
    """Return the names of samples with those of all labels that any of them has."""
    found: dict[str, set[str]] = {}
    for family in families.values():
        for each in family.samples:
            found.setdefault(each.name, set()).update(each.labels)
    return found


@contextmanager
def scraped(service: str, instance: str, **env: str) -> Iterator[tuple[Telemetry, str]]:
    """Telemetry of a service whose metrics are found at the URL beside it."""
    said: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("mesh_wire.prometheus"), Hearing()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with exporting(service, instance, env=env, metrics_at="127.0.0.1:0") as telemetry:
            [url] = [found[1] for line in said if (found := TOLD.search(line))]
            yield telemetry, url
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@dataclass(frozen=True)
class Told:
    """What a router and an expert exported once a fleet had been through everything that leaves a metric."""

    router: Families
    expert: Families
    endpoint: str  # the expert's


def told_by_a_fleet(folder: Path) -> Told:
    """Have a fleet go through answers, refusals, other attempts, a direct answer, drift and a reload; scrape it."""
    return asyncio.run(_told(folder))


async def _told(folder: Path) -> Told:
    save(folder / "fitted", small_lexical())
    lines = {line.domain: line.prompt for line in corpus(50, seed=3)}
    death = Unavailable("gone", reason="ENGINE_DEAD", tokens_sent="0")
    halves = [Failing(death, "riddles", after_tokens=1) for _ in range(2)]  # each begins an answer and dies
    with ExitStack() as life, patch("router_svc.reloading.reload.LOOK_EVERY_S", 0.02):
        of_router, router_url = life.enter_context(scraped("expertmesh-router", "r"))
        of_expert, expert_url = life.enter_context(scraped("expertmesh-expert", "a"))
        served = ("general", "math", "coding", "health")
        async with (
            running_expert(*served, name="a", telemetry=of_expert, max_in_flight=1) as expert,
            running_expert("law", name="gone", engine=Failing(death, "law")) as lost,
            running_expert("riddles", name="half", engine=halves[0]) as half,
            running_expert("riddles", name="other-half", engine=halves[1]) as other_half,
            watched_router(
                folder,
                expert.target,
                lost.target,
                half.target,
                other_half.target,
                telemetry=of_router,
                strategy="lexical",
                artefact="fitted",
                threshold=0.3,
                max_in_flight=1,
            ) as watched,
        ):
            ask = watched.router.inference.Generate
            await whole(ask(greedy(lines["math"])))
            await whole(ask(greedy(lines["law"])))  # its expert is gone: the generalist answers
            riddle = greedy()
            riddle.expert = "riddles"
            assert await failure(ask(riddle))  # which went on at the other half
            expert.engine.stall()
            inside = ask(greedy(lines["coding"]))
            await eventually(lambda: expert.engine.held == 1)
            assert (await failure(ask(greedy()))).reason == "ROUTER_BUSY"
            assert (await failure(expert.inference.Generate(greedy()))).reason == "EXPERT_BUSY"
            expert.engine.resume()
            await whole(inside)
            async with AsyncClient(watched.router.target, direct=True) as client:
                await client.generate(lines["health"], sampling=greedy().sampling).read()
            for _ in range(LEAST + 50):  # older prompts count less
                await watched.route(lines["health"])
            watched.write(threshold=0.2)
            await watched.becomes(2)

            async def all_counted() -> bool:  # some is a moment after its cause
                found = labels(await asyncio.to_thread(scrape, router_url)).keys()
                return {"expertmesh_direct_tokens_total", "expertmesh_reloads_total"} <= found

            await eventually(all_counted)
            router, own = await asyncio.gather(*(asyncio.to_thread(scrape, url) for url in (router_url, expert_url)))
            return Told(router, own, expert.target)
