"""The dashboard, what feeds it, and where: as far as can be checked without Grafana."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh_wire import mesh_file

ROOT = Path(__file__).parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/fleet.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of Grafana's grid


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_dashboard_has_what_grafana_asks_of_one() -> None:
    assert BOARD["schemaVersion"] >= 39
    assert BOARD["uid"]
    assert len(BOARD["uid"]) <= 40
    assert BOARD["title"]
    assert "id" not in BOARD, "Grafana gives it"
    assert {"time", "templating", "annotations", "panels", "refresh"} <= BOARD.keys()
    assert "__inputs" not in BOARD, "those are asked for at an import by hand, and nobody is there to answer"


def test_panels_have_an_id_and_a_title_each() -> None:
    assert not [number for number, times in Counter(panel["id"] for panel in PANELS).items() if times > 1]
    assert all(panel["title"] and isinstance(panel["id"], int) for panel in PANELS)
    assert {panel["type"] for panel in PANELS} <= {"row", "stat", "timeseries"}


def test_panels_lie_in_the_grid_and_not_upon_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0, panel["title"]
        assert at["x"] + at["w"] <= WIDTH, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]


def test_panels_stand_in_the_order_in_which_they_are_seen() -> None:
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in PANELS]
    assert all(one < other for one, other in pairwise(places))


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["overrides"] == []
    assert panel["datasource"] == PROMETHEUS
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["expr"]
        assert target["legendFormat"]
        assert target["datasource"] == PROMETHEUS


def test_what_the_dashboard_varies_by_is_used_and_there() -> None:
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    expressions = " ".join(target["expr"] for panel in SHOWN for target in panel["targets"])
    for name in variables.keys() - {"datasource"}:
        assert f"${name}" in expressions, name
        assert variables[name]["datasource"] == PROMETHEUS


def test_grafana_is_given_the_dashboard_and_the_source_of_its_figures(compose: dict[str, Any]) -> None:
    service = compose["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in service["volumes"])
    [provider] = read("deploy/grafana/provisioning/dashboards/expertmesh.yaml")["providers"]
    folder = ROOT / mounted[provider["options"]["path"]]
    assert (folder / "fleet.json").exists()
    home = Path(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert ROOT / mounted["/etc/grafana/provisioning"] == ROOT / "deploy/grafana/provisioning"
    [source] = read("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def test_prometheus_fetches_from_every_process_of_the_containers_mesh(compose: dict[str, Any]) -> None:
    mesh = mesh_file.read(ROOT / "deploy/mesh.compose.yaml", env={})
    wanted = {("expertmesh-router", "router", mesh.router.metrics)}
    wanted |= {("expertmesh-expert", expert.name, expert.metrics) for expert in mesh.experts}
    found = {
        (job["job_name"], name, f"0.0.0.0:{each['port']}")
        for job in read("deploy/prometheus/prometheus.yaml")["scrape_configs"]
        for each in job["dns_sd_configs"]
        for name in each["names"]
    }
    assert found == wanted
    assert {name for _, name, _ in found} <= compose["services"].keys()


def test_prometheus_and_grafana_are_there_when_they_are_asked_for(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name, service in services.items() if service.get("profiles") == ["metrics"]} == {
        "prometheus",
        "grafana",
    }
    prometheus = services["prometheus"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yaml" in prometheus["command"]
    for name in ("prometheus", "grafana"):
        named = {volume.split(":")[0] for volume in services[name]["volumes"] if not volume.startswith(".")}
        assert named <= compose["volumes"].keys()
