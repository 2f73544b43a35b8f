"""A classifier in trouble: everybody is answered, and health says so."""

import pytest
from grpc_health.v1 import health_pb2

from router_svc import tending
from router_svc.classifying.faring import LATEST
from support.asking import greedy
from support.calls import whole
from support.mesh import running_mesh
from support.stages import TwoStaged
from support.waiting import eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_classifier_that_fails_is_told_by_health_and_by_the_fleet_until_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tending, "TELL_EVERY_S", 0.01)
    experts = {"a": ["near", "far", "general"]}
    async with running_mesh(experts, strategy=TwoStaged(), threshold=0.5, classify_budget_ms=30_000) as mesh:

        async def says(status: int) -> bool:
            return await mesh.health(tending.CLASSIFIER) == status

        for _ in range(LATEST):
            answer = await whole(mesh.inference.Generate(greedy("explode")))
            assert answer.route
            assert (answer.route.expert, answer.route.fallback) == ("near", "strategy_failed")
        await eventually(lambda: says(NOT_SERVING))
        assert "strategy_failed" in (await mesh.fleet()).strategy_trouble
        assert await mesh.health() == SERVING
        assert await mesh.health("expertmesh.v1.RouterService") == SERVING

        for _ in range(LATEST):
            await whole(mesh.inference.Generate(greedy("hm")))
        await eventually(lambda: says(SERVING))
        assert not (await mesh.fleet()).strategy_trouble
