"""What an installed wheel brings."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"expertmesh", "mesh_wire", "expertmesh_client", "router_svc", "expert_svc"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The paths in a wheel that was just built."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_brings_the_five_packages_and_nothing_else(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_a_wheel_brings_the_contract_for_other_languages(names: list[str]) -> None:
    protos = sorted(path.name for path in (ROOT / "protos/expertmesh/v1").glob("*.proto"))

    assert protos == sorted(Path(name).name for name in names if name.endswith(".proto"))
    for proto in protos:
        assert f"expertmesh/v1/{proto.removesuffix('.proto')}_pb2.pyi" in names


def test_a_wheel_brings_the_prompts_that_a_load_falls_back_on(names: list[str]) -> None:
    assert "expertmesh_client/load/prompts.yaml" in names


def test_a_wheel_says_that_what_callers_import_is_typed(names: list[str]) -> None:
    assert {f"{package}/py.typed" for package in ("expertmesh", "mesh_wire", "expertmesh_client")} <= set(names)


def test_a_wheel_brings_no_leftovers(names: list[str]) -> None:
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".orig", ".rej"))]
