"""What SECURITY.md and docs/security.md name is there, and what they tell people to run works."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from expertmesh.v1.errors_pb2 import ErrorReason
from mesh_wire.auth.sections import CallerSection, JwtSection, KnownCaller, PeerSection
from mesh_wire.settings import ExpertSection, Mesh, RouterSection, TicketSection
from mesh_wire.tls import ClientTls, ServerTls

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "SECURITY.md", ROOT / "docs/security.md"]
SETTINGS = {
    name
    for section in (
        Mesh,
        RouterSection,
        ExpertSection,
        TicketSection,
        CallerSection,
        KnownCaller,
        JwtSection,
        PeerSection,
    )
    for name in section.model_fields
} | {*ServerTls.__slots__, *ClientTls.__slots__}
NO_SETTINGS = {"trust_remote_code", "name"}  # vLLM's
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def backticked(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page: Path) -> None:
    words = [re.split(r"[:.\[]", word)[0] for word in backticked(page)]
    named = {word for word in words if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", word)} - NO_SETTINGS

    assert named
    assert named - SETTINGS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"(?:deploy|docs)/[\w.-]+\w", page.read_text(encoding="utf-8")))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_reasons_that_are_named_exist() -> None:
    named = {word for word in backticked(PAGES[1]) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", word)} - {"EXPERTMESH_TOKEN"}
    assert len(named) == 7
    assert {f"ERROR_REASON_{name}" for name in named} <= set(ErrorReason.keys())


def test_metrics_that_are_named_exist() -> None:
    named = {word for word in backticked(PAGES[1]) if word.startswith("expertmesh.")} - {"expertmesh.caller"}
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mesh_wire/auth").glob("*.py"))
    assert len(named) == 3
    assert [name for name in named if f'"{name}"' not in source] == []


def test_sections_that_are_shown_are_good() -> None:
    blocks = [body for kind, body in FENCED.findall(PAGES[1].read_text(encoding="utf-8")) if kind == "yaml"]
    callers, peers = (yaml.safe_load(block.replace("<hash>", "ab" * 32)) for block in blocks)

    assert CallerSection(**callers["callers"]).jwt
    assert PeerSection(**peers["peers"]).token


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_five_commands_make_certificates_that_a_mesh_takes(tmp_path: Path) -> None:
    script = next(body for kind, body in FENCED.findall(PAGES[1].read_text(encoding="utf-8")) if kind == "sh")
    assert len(script.splitlines()) == 5
    done = subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True)  # noqa: S603, S607  # the page's

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("router.pem: OK\n")
    authority, certificate, key = (tmp_path / name for name in ("mesh-ca.pem", "router.pem", "router.key"))
    assert list(ServerTls(certificate=certificate, key=key, client_authority=authority).faults()) == []
    assert list(ClientTls(authority=authority, certificate=certificate, key=key).faults()) == []
