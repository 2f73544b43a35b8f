"""The experiment of selection under load: its fleet and its routers are ones that a mesh file may describe."""

from pathlib import Path

import pytest

from benchmarks.selection_fleet import EXPERTS, REPLICAS, engines, ways
from benchmarks.selection_load import markdown
from mesh_wire.settings import Mesh

CONTENT, SIBLING = {"load": 100.0, "way": "content"}, {"load": 100.0, "way": "spill + sibling"}
REST = {"goodput_per_s": 9.0, "spilled": 0.1, "by_twin": 0.2, "unfinished": 0, "generator_saturated": False}


@pytest.mark.parametrize("twins", range(1, len(EXPERTS)))
@pytest.mark.parametrize("way", ["content", "spill", "spill + sibling", "load only"])
def test_every_way_is_a_mesh(way: str, twins: int) -> None:
    settings = ways("lexical", Path("models/router/lexical"), 20, 0.1, 100)[way]
    mesh = Mesh.model_validate({"router": settings, "experts": engines(twins)})
    assert len(mesh.experts) == len(EXPERTS) * REPLICAS
    for expert in EXPERTS:
        own = [one for one in mesh.experts if expert in one.serves and expert not in one.variants]
        lower = [one for one in mesh.experts if expert in one.variants]
        assert (len(own), len(lower)) == (REPLICAS, REPLICAS * twins)


def test_the_table_says_what_was_gained_and_lost() -> None:
    rows = [
        {**CONTENT, **REST, **dict.fromkeys(TIMES, 3.0), "accuracy": 0.95},
        {**SIBLING, **REST, **dict.fromkeys(TIMES, 0.5), "accuracy": 0.93},
    ]
    said = markdown({"capacity_per_s": 60.0, "rows": rows}, 0.5)
    assert "| 100 % | spill + sibling | 500 ms | 500 ms | 500 ms | 9.0 | 93.0% | 10.0% | 20.0% |" in said
    assert said.endswith("p95 6.0 times better than content, 2.0 points of routed accuracy lost")


TIMES = ("first_token_p50_s", "first_token_p95_s", "first_token_p99_s")
