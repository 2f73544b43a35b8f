"""The drawing in the design is true: imports point one way, and a router needs neither torch nor vLLM."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "expertmesh": ROOT / "protos/expertmesh",
    "mesh_wire": ROOT / "mesh_wire",
    "expertmesh_client": ROOT / "client/expertmesh_client",
    "router_svc": ROOT / "router_svc",
    "expert_svc": ROOT / "expert_svc",
}
KNOWS: dict[str, set[str]] = {
    "expertmesh": set(),
    "mesh_wire": {"expertmesh"},
    "expertmesh_client": {"expertmesh", "mesh_wire"},
    "router_svc": {"expertmesh", "mesh_wire"},
    "expert_svc": {"expertmesh", "mesh_wire"},
}


def imported_by(package: str) -> set[str]:
    """The top-level names that a package's source imports."""
    found: set[str] = set()
    for path in FOLDERS[package].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", KNOWS)
def test_imports_point_one_way(package: str) -> None:
    assert imported_by(package) & KNOWS.keys() <= KNOWS[package] | {package}


def test_vllm_is_met_in_one_place() -> None:
    meeting = {
        path.relative_to(ROOT).parts[:2]
        for folder in FOLDERS.values()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "vllm" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm")
    }
    assert meeting <= {("expert_svc", "vllm_engine")}


HEAVY = ("torch", "vllm", "sklearn", "scipy", "transformers", "k_means_constrained", "pandas")


@pytest.mark.parametrize(
    "module", ["router_svc.service", "router_svc.__main__", "expert_svc.__main__", "expert_svc.service"]
)
def test_serving_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # ours

    assert done.stdout == "[]\n"
