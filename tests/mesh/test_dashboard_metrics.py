"""What the dashboard and the table of metrics name is what a router and an expert export, and nothing is left out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
from opentelemetry.metrics import Counter, NoOpMeter

from mesh_wire.telemetry import Telemetry
from support.mesh import running_mesh
from support.metrics import labels, told_by_a_fleet

ROOT = Path(__file__).parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/fleet.json").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"job", "instance", "le"}  # labels that Prometheus gives to what it fetches, and those of buckets
LABEL_VALUES = re.compile(r"label_values\((\w+), (\w+)\)")
ROW = re.compile(r"^\| `([\w.]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|", re.MULTILINE)
# Of a mesh that has doors: TLS, and callers who say who they are.
BEHIND_DOORS = {"expertmesh.auth.refused", "expertmesh.tls.reloads", "expertmesh.tls.certificate.left"}
SELDOM = BEHIND_DOORS | {
    "expertmesh.route.attempts_refused",
    "expertmesh.route.hedges",
    "expertmesh.admission.wait",
}  # what the fleet of these tests has no occasion to export
ENDINGS = re.compile(r"(_total|_bucket|_sum|_count)$")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Service -> sample -> its labels."""
    told = told_by_a_fleet(tmp_path_factory.mktemp("fleet"))
    return {"router": labels(told.router), "expert": labels(told.expert)}


def expressions() -> list[str]:
    """The dashboard's expressions with something in the place of each variable."""
    found = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
    return [re.sub(r"\$\w+", "x", each.replace("$__rate_interval", "5m")) for each in found]


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric of an expression with the labels that the expression names of it."""
    yield from _selectors(node, set())


def _selectors(node: Any, wanted: set[str]) -> Iterator[tuple[str, set[str]]]:
    match node:
        case promql.VectorSelector():
            yield node.name, wanted | {matcher.name for matcher in node.matchers.matchers}
        case promql.MatrixSelector():
            yield from _selectors(node.vector_selector, wanted)
        case promql.AggregateExpr():
            grouped = set(node.modifier.labels) if node.modifier is not None else set()
            yield from _selectors(node.expr, wanted | grouped)
        case promql.BinaryExpr():
            yield from _selectors(node.lhs, wanted)
            yield from _selectors(node.rhs, wanted)
        case promql.Call():
            for each in node.args:
                yield from _selectors(each, wanted)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selectors(node.expr, wanted)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"a part of PromQL that this test does not know: {type(node).__name__}")


def test_every_expression_asks_for_what_is_exported(exported: dict[str, dict[str, set[str]]]) -> None:
    everything: dict[str, set[str]] = {}
    for samples in exported.values():
        for name, found in samples.items():
            everything.setdefault(name, set()).update(found)
    asked = 0
    for expression in expressions():
        for name, wanted in selectors(promql.parse(expression)):
            asked += 1
            assert name in everything, f"nobody exports {name}: {expression}"
            assert wanted - OF_PROMETHEUS <= everything[name], f"{name} has no such label: {expression}"
    assert asked >= len(expressions())


def test_variables_are_filled_from_what_is_exported(exported: dict[str, dict[str, set[str]]]) -> None:
    queries = [one["query"]["query"] for one in BOARD["templating"]["list"] if one["type"] == "query"]
    for query in queries:
        found = LABEL_VALUES.fullmatch(query)
        assert found, query
        service = "expert" if "engine" in found[1] else "router"
        assert found[1] in exported[service]
        assert found[2] in exported[service][found[1]] | OF_PROMETHEUS
    # By these a router's job is told from an expert's.
    assert "expertmesh_replica_up" not in exported["expert"]
    assert "expertmesh_engine_running" not in exported["router"]


def table() -> dict[str, list[str]]:
    """The table of metrics: name -> type, unit, services, labels."""
    rows = ROW.findall((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
    assert len({name for name, *_ in rows}) == len(rows), "a metric stands there twice"
    return {name: [cell.strip() for cell in cells] for name, *cells in rows}


def test_what_is_exported_stands_in_the_table_with_its_labels(exported: dict[str, dict[str, set[str]]]) -> None:
    rows = table()
    seen: set[str] = set()
    for service, samples in exported.items():
        names = {prometheus_name(name, cells): name for name, cells in rows.items() if service in cells[2]}
        for sample, named in samples.items():
            if sample == "target_info":
                continue
            family = ENDINGS.sub("", sample)
            assert family in names, f"the table lacks {sample} of the {service}"
            documented = {label.replace(".", "_") for label in re.findall(r"`([\w.]+)`", rows[names[family]][3])}
            assert named - {"le"} <= documented, f"the table lacks a label of {sample} of the {service}"
            seen.add(names[family])
    assert rows.keys() - seen <= SELDOM


class Noting(NoOpMeter):
    """Keeps the names of instruments, with their types and units."""

    def __init__(self) -> None:
        super().__init__("noting")
        self.instruments: dict[str, tuple[str, str]] = {}

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        self.instruments[name] = ("counter", unit)
        return super().create_counter(name, unit, description)

    def create_observable_counter(self, name: str, callbacks: Any = None, unit: str = "", description: str = "") -> Any:
        self.instruments[name] = ("counter", unit)
        return super().create_observable_counter(name, callbacks, unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        self.instruments[name] = ("gauge", unit)
        return super().create_up_down_counter(name, unit, description)

    def create_observable_gauge(self, name: str, callbacks: Any = None, unit: str = "", description: str = "") -> Any:
        self.instruments[name] = ("gauge", unit)
        return super().create_observable_gauge(name, callbacks, unit, description)

    def create_histogram(self, name: str, unit: str = "", description: str = "", **more: Any) -> Any:
        self.instruments[name] = ("histogram", unit)
        return super().create_histogram(name, unit, description, **more)


async def test_the_table_has_every_instrument_with_its_type_and_unit() -> None:
    meter = Noting()
    telemetry = Telemetry(meter)
    async with running_mesh(telemetry=telemetry, expert_telemetry=telemetry):
        created = dict(meter.instruments)
    told = {name: (cells[0], cells[1]) for name, cells in table().items()}
    assert {name: told.get(name) for name in created} == created
    assert told.keys() - created.keys() <= BEHIND_DOORS


def prometheus_name(name: str, cells: list[str]) -> str:
    """What the exporter makes of a metric's name and unit."""
    unit = re.sub(r"\{.*?\}", "", cells[1].strip(" `")).strip("1")
    ending = {"": "", "s": "_seconds", "/s": "_per_second"}[unit]
    return name.replace(".", "_") + ending
