"""Where Prometheus finds each process's metrics: by the mesh file, or by the environment."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh_wire.mesh_file import Mistakes, read
from mesh_wire.prometheus import address_of, addresses_of, exporters
from mesh_wire.settings import Mesh, RouterSection

BY_ENVIRONMENT = {"OTEL_METRICS_EXPORTER": "otlp,prometheus"}


def mesh_file(folder: Path, *, router: dict[str, Any] | None = None, a: dict[str, Any] | None = None) -> Path:
    """Write a mesh of a router and two experts."""
    served = {"listen": "127.0.0.1:0", "simulated": {}}
    data = {
        "router": {"listen": "127.0.0.1:0", "strategy": "round_robin", **(router or {})},
        "experts": [
            {"name": "a", "serves": {"general": None}, **served, **(a or {})},
            {"name": "b", "serves": {"math": None}, **served},
        ],
    }
    path = folder / "mesh.yaml"
    path.write_text(json.dumps(data, indent=1))  # JSON is YAML
    return path


def mistakes(path: Path, env: dict[str, str] | None = None, **starting: Any) -> list[str]:
    with pytest.raises(Mistakes) as wrong:
        read(path, env or {}, **starting)
    return [line.removeprefix(f"{path}:") for line in wrong.value.lines]


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        yield f"127.0.0.1:{busy.getsockname()[1]}"


def section(**fields: Any) -> RouterSection:
    return RouterSection(strategy="round_robin", **fields)


def test_workers_have_ports_one_after_the_other() -> None:
    router = section(metrics="127.0.0.1:9464", workers=3)
    assert [address_of(router, worker) for worker in (1, 2, 3)] == addresses_of(router)
    assert addresses_of(router) == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]


def test_a_router_alone_has_the_port_that_is_named() -> None:
    assert address_of(section(metrics="[::1]:9464")) == "[::1]:9464"
    assert address_of(section()) is None
    assert addresses_of(section()) == []


def test_port_0_is_a_free_one_for_each_worker() -> None:
    router = section(metrics="127.0.0.1:0", workers=2)
    assert address_of(router, 2) == "127.0.0.1:0"
    assert addresses_of(router) == ["127.0.0.1:0"]


def test_no_process_has_metrics_unless_it_is_said(tmp_path: Path) -> None:
    mesh = read(mesh_file(tmp_path), {}, router=True, experts=["a", "b"])
    assert not any(addresses_of(each) for each in (mesh.router, *mesh.experts))


def test_addresses_that_meet_in_one_file_are_mistakes(tmp_path: Path) -> None:
    path = mesh_file(tmp_path, router={"metrics": "127.0.0.1:9464", "workers": 2}, a={"metrics": "127.0.0.1:9465"})
    words = "127.0.0.1:9465 is taken in this file: each process needs `metrics` of its own"
    assert mistakes(path) == [f"5: router.metrics: {words}", f"16: experts[0].metrics: {words}"]


def test_metrics_where_the_service_itself_listens_are_a_mistake(tmp_path: Path) -> None:
    path = mesh_file(tmp_path, a={"listen": "127.0.0.1:9464", "metrics": "127.0.0.1:9464"})
    [said] = mistakes(path)
    assert "127.0.0.1:9464 is taken in this file" in said


def test_a_last_worker_without_a_port_is_a_mistake(tmp_path: Path) -> None:
    path = mesh_file(tmp_path, router={"metrics": "127.0.0.1:65534", "workers": 4})
    assert mistakes(path, router=True) == ["5: router.metrics: its last worker would have port 65537"]


def test_a_port_that_somebody_else_has_is_a_mistake_of_the_process_about_to_start(tmp_path: Path, taken: str) -> None:
    path = mesh_file(tmp_path, a={"metrics": taken})
    assert mistakes(path, experts=["a"]) == [
        f"14: experts[0].metrics: cannot listen on {taken}: Address already in use"
    ]
    read(path, {}, experts=["b"])
    read(path, {}, experts=["a"], serving=True)  # it is the process itself that listens there


def test_the_environment_gives_an_address_to_the_process_about_to_start(tmp_path: Path) -> None:
    path = mesh_file(tmp_path)
    env = BY_ENVIRONMENT | {"OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1", "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}
    mesh = read(path, env, experts=["b"])
    assert [expert.metrics for expert in mesh.experts] == [None, "127.0.0.1:0"]
    assert mesh.router.metrics is None


def test_the_environment_s_defaults_are_those_of_opentelemetry(tmp_path: Path) -> None:
    mesh = read(mesh_file(tmp_path), BY_ENVIRONMENT, router=True, serving=True)
    assert mesh.router.metrics == "localhost:9464"


def test_the_file_knows_better_than_the_environment(tmp_path: Path) -> None:
    path = mesh_file(tmp_path, router={"metrics": "127.0.0.1:0"})
    assert read(path, BY_ENVIRONMENT, router=True).router.metrics == "127.0.0.1:0"


def test_several_processes_cannot_share_the_environment_s_port(tmp_path: Path) -> None:
    said = mistakes(mesh_file(tmp_path), BY_ENVIRONMENT, router=True, experts=["a", "b"])
    words = "localhost:9464 is taken in this file: each process needs `metrics` of its own"
    assert [line for line in said if "cannot listen" not in line] == [f"OTEL_EXPORTER_PROMETHEUS_PORT: {words}"] * 3


def test_a_port_of_the_environment_that_is_none_is_named_by_its_variable(tmp_path: Path) -> None:
    [said] = mistakes(mesh_file(tmp_path), BY_ENVIRONMENT | {"OTEL_EXPORTER_PROMETHEUS_PORT": "many"}, router=True)
    assert said == "OTEL_EXPORTER_PROMETHEUS_PORT: an address is host:port, such as 127.0.0.1:50050"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", {"otlp"}),
        ("otlp", {"otlp"}),
        ("none", set()),
        ("prometheus", {"prometheus"}),
        (" OTLP , Prometheus", {"otlp", "prometheus"}),
    ],
)
def test_the_exporters_of_metrics_are_a_list(said: str, meant: set[str]) -> None:
    assert exporters({"OTEL_METRICS_EXPORTER": said}) == meant
    assert exporters({}) == {"otlp"}


def test_a_mesh_says_nothing_of_metrics_by_itself() -> None:
    assert Mesh(router=section(targets=("127.0.0.1:1",))).router.metrics is None
