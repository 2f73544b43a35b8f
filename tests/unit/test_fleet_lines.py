"""What `expertmesh experts` says of the router itself."""

from expertmesh.v1.router_pb2 import Drift, ListExpertsResponse
from expertmesh_client.cli.shapes import fleet_lines, fleet_shape

FLEET = ListExpertsResponse(
    generalist="general",
    strategy="lexical",
    generation=3,
    not_taken=["mesh.yaml:3: router.threshold: too large", "mesh.yaml:4: router.seed: missing"],
    left_for_restart=["router.listen", "router.workers"],
    strategy_trouble="of the latest 32 prompts that it was asked about, it did not decide 30: over_budget 30",
    drift=Drift(verdict="like the fitting data", index=0.04, prompts=812.5),
)


def test_generation_traffic_trouble_and_what_is_not_served_have_a_line_each() -> None:
    assert list(fleet_lines(FLEET))[1:] == [
        "* answers when the router is unsure; strategy lexical, generation 3",
        "traffic: like the fitting data",
        "strategy lexical in trouble: of the latest 32 prompts that it was asked about, it did not decide 30: "
        "over_budget 30",
        "not taken: mesh.yaml:3: router.threshold: too large",
        "not taken: mesh.yaml:4: router.seed: missing",
        "changed, but taken by a restart only: router.listen, router.workers",
    ]


def test_programs_are_told_the_same() -> None:
    said = fleet_shape(FLEET)
    assert said["generation"] == 3
    assert said["drift"] == {"verdict": "like the fitting data", "index": 0.04, "prompts": 812.5}
    assert said["left_for_restart"] == ["router.listen", "router.workers"]
    assert len(said["not_taken"]) == 2
    assert fleet_shape(ListExpertsResponse())["drift"] == {"verdict": "", "index": None, "prompts": 0}
