"""Traffic that has left what the artefact was fitted on is told by the router."""

from pathlib import Path

from expertmesh.v1.router_pb2 import RouteRequest
from router_svc.classifying.drift import LEAST, LEFT
from router_svc.strategies.artefact import save
from support.asking import greedy
from support.corpora import corpus, small_lexical
from support.mesh import running_mesh


async def test_the_fleet_tells_that_traffic_has_left_the_corpus(tmp_path: Path) -> None:
    save(tmp_path, small_lexical())
    lines = corpus(5 * (LEAST + 50), seed=3)
    experts = {"a": ["general", "math", "coding", "health", "law"]}
    async with running_mesh(experts, strategy="lexical", artefact=tmp_path) as mesh:
        assert (await mesh.fleet()).drift.verdict == "not known yet, from 0 prompts"
        for line in lines:
            if line.domain == "health":
                await mesh.routing.Route(RouteRequest(request=greedy(line.prompt)))
        drift = (await mesh.fleet()).drift

    assert drift.verdict.startswith("has left what the artefact was fitted on: health 100 % instead of 20 %")
    assert drift.index > LEFT


async def test_a_strategy_without_an_artefact_has_nothing_to_leave() -> None:
    async with running_mesh() as mesh:
        drift = (await mesh.fleet()).drift
    assert "not known" in drift.verdict
    assert not drift.HasField("index")
