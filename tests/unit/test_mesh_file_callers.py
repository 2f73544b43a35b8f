"""A mesh file's callers, peers and certificates: what does not fit together is said at once."""

import json
import socket
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from mesh_wire.auth.access import expert_gate, expert_guard, router_guard
from mesh_wire.auth.tokens import hash_of, new_token
from mesh_wire.mesh_file import Mistakes, read
from mesh_wire.telemetry import Telemetry
from router_svc.reloading.plan import left_for_restart
from support.certificates import SERVER, Files, authority
from support.issuer import Issuer

ROOT = Path(__file__).parents[2]
HASH = hash_of(new_token())
BASE = """
router: {{listen: 127.0.0.1:0, strategy: random{router}}}
experts:
  - {{name: one, listen: 127.0.0.1:0, serves: {{general: }}, simulated: {{}}{expert}}}
"""


def mistakes(folder: Path, more: str = "", *, router: str = "", expert: str = "", **how: bool) -> list[str]:
    """What is said of a file, without its path."""
    file = folder / "mesh.yaml"
    file.write_text(BASE.format(router=router and f", {router}", expert=expert and f", {expert}") + dedent(more))
    try:
        read(file, {}, router=how.get("starting", False), experts=["one"] if how.get("starting") else [])
    except Mistakes as error:
        return [line.removeprefix(f"{file}:").replace(f"{folder}/", "") for line in error.lines]
    return []


PEERS = "peers: {token: {file: peer.token}}\n"


@pytest.mark.parametrize(
    ("more", "expert", "told"),
    [
        (
            "callers: {known: [{name: a}]}\n" + PEERS,
            "",
            ["a is known by nothing: `certificate`, `token_sha256`, or `jwt` beside `known`"],
        ),
        ("callers: {}\n", "", ["no router could ask it: say `peers`, or give `tickets` keys"]),
        ("", "accepts: [routers]", ["there are no `peers` by whom it would know a router"]),
        ("", "accepts: [tickets]", ["there are no keys under `tickets`"]),
        (PEERS, "accepts: [routers, callers]", ["there are no `callers`"]),
        (
            PEERS,
            "accepts: [callers]",
            ["no router could ask it: say `peers`, or give `tickets` keys", "there are no `callers`"],
        ),
        (
            "",
            "accepts: [anybody, routers]",
            ["there are no `peers` by whom it would know a router", "anybody, and yet not everybody"],
        ),
        (
            "peers: {certificates: [r]}\n",
            "",
            ["it asks for no certificates, by which `peers` are known: `tls` needs a `client_authority`"],
        ),
        (
            PEERS + f"callers: {{known: [{{name: a, token_sha256: [{HASH}]}}, {{name: a, token_sha256: [{HASH}]}}]}}\n",
            "",
            [
                "another caller is called a too",
                "one of them stands elsewhere too",
                "another caller is called a too",
                "one of them stands elsewhere too",
            ],
        ),
        (
            PEERS + f"callers: {{known: [{{name: a, token_sha256: [{HASH}], experts: [law]}}]}}\n",
            "",
            ["no expert process serves law"],
        ),
        (
            PEERS + "callers: {known: [{name: a, certificate: a.test}]}\n",
            "",
            ["the router asks for no certificates: `tls` needs a `client_authority`"],
        ),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, more: str, expert: str, told: list[str]) -> None:
    assert [line.partition(": ")[2].partition(": ")[2] for line in mistakes(tmp_path, more, expert=expert)] == told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("callers: {known: [{name: a, token_sha256: [abc]}]}", "string should match pattern"),
        ("callers: {known: [{name: a, rpcs: [Generat]}]}", "no RPC is called Generat; there are Describe, Generate"),
        ("callers: {jwt: {jwks: k, issuer: i, audience: a, algorithms: [HS256]}}", "input should be 'RS256'"),
        ("callers: {jwt: {jwks: k, audience: a}}", "missing"),
        ("peers: {}", "routers are known by `certificates` or by a `token`"),
        ("callers: {everybody: }", "no such key"),
    ],
)
def test_what_has_another_form_is_told(tmp_path: Path, more: str, words: str) -> None:
    assert any(words in line for line in mistakes(tmp_path, more))


def test_everything_that_is_wrong_with_files_is_said_at_once_when_a_process_starts(tmp_path: Path) -> None:
    files, signer = Files(tmp_path), authority()
    files.put("authority", signer)
    files.put("old", signer.sign(SERVER, days=(-2, -1)))
    files.put("other", signer.sign(SERVER))
    (tmp_path / "peer.token").write_text("short")
    (tmp_path / "keys.json").write_text("{}")
    told = mistakes(
        tmp_path,
        """
        peers: {token: {file: peer.token}}
        callers: {jwt: {jwks: keys.json, issuer: i, audience: a}}
        """,
        router="expert_tls: {authority: authority.pem, certificate: other.pem}",
        expert="tls: {certificate: old.pem, key: other.key, client_authority: authority.pem}",
        starting=True,
    )
    words = [line.partition(": ")[2] for line in told]

    assert [line for line in words if "expired" not in line] == [
        "callers.jwt.jwks: keys.json is no JSON Web Key Set: it has no list of `keys`",
        "peers.token: a key has at least 32 bytes",
        "router.expert_tls.key: a certificate and its key belong together",
        "experts[0].tls.key: other.key is not the key of the certificate",
    ]
    assert next(line for line in words if "expired" in line).startswith(
        "experts[0].tls.certificate: old.pem expired on "
    )


def test_a_server_that_asks_for_certificates_and_a_router_that_has_none_are_told_together(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        router="expert_tls: {authority: a.pem}",
        expert="tls: {certificate: c.pem, key: k.pem, client_authority: a.pem}",
    )
    assert [line.partition(": ")[2] for line in told] == [
        "experts[0].tls.client_authority: the router would show no certificate",
        "router.expert_tls: `certificate` and `key` are missing, for which one asks",
    ]


# Production


def test_production_refuses_everything_that_is_open(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, "production: true\ncallers: {anonymous: {}}\n", expert="reflection: true, accepts: [anybody]"
    )

    assert [line.partition(": ")[2] for line in told] == [
        "router: production asks for `tls`",
        "experts[0]: production asks for `tls`",
        "experts[0].reflection: production leaves it off",
        "router: production asks for `expert_tls`",
        "callers.anonymous: production asks everybody who calls",
        "experts[0]: production lets only routers and tickets in: say `peers`, or give `tickets` keys",
    ]


@pytest.fixture
def production(tmp_path: Path) -> Path:
    """The example, on a machine that has its files."""
    text = (ROOT / "deploy/mesh.production.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    content["router"]["artefact"] = str(ROOT / "models/router/cascade")
    for expert in content["experts"]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            expert["listen"] = f"127.0.0.1:{free.getsockname()[1]}"
    content["router"]["listen"] = "127.0.0.1:0"
    (tmp_path / "tls").mkdir()
    files, mesh = Files(tmp_path / "tls"), authority("mesh.test")
    files.put("mesh-ca", mesh)
    files.put("callers-ca", authority("callers.test"))
    files.put("router", mesh.sign("router.mesh.internal"))
    files.put("expert", mesh.sign("expert.mesh.internal"))
    Issuer(tmp_path / "tls/issuer-keys.json")
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_the_example_of_a_production_mesh_is_good(production: Path) -> None:
    names = ["expert-a", "expert-b"]
    mesh = read(production, {"PEER_TOKEN": new_token()}, router=True, experts=names, simulated=True)

    assert not any(section.reflection or section.channelz for section in (mesh.router, *mesh.experts))
    assert mesh.callers is not None
    assert [known.name for known in mesh.callers.known] == ["website", "nightly-batch"]


def test_the_example_opens_guards_before_router_and_experts(production: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_TOKEN", new_token())
    mesh, off = read(production, {}), Telemetry.off()
    assert router_guard(mesh, off) is not None
    for section in mesh.experts:
        assert expert_guard(section, mesh.tickets, mesh.callers, mesh.peers, off) is not None
        assert expert_gate(section, mesh.tickets, mesh.callers, mesh.peers, {"general": "m"}) is None


def test_a_missing_secret_is_told_by_its_variable_alone(production: Path) -> None:
    with pytest.raises(Mistakes) as told:
        read(production, {}, router=True, simulated=True)
    assert [line.rpartition(": ")[2] for line in told.value.lines] == ["the environment has no PEER_TOKEN"]


def test_a_mesh_that_says_nothing_of_callers_is_as_open_as_before(tmp_path: Path) -> None:
    assert mistakes(tmp_path) == []
    mesh = read(tmp_path / "mesh.yaml", {})
    assert router_guard(mesh, Telemetry.off()) is None
    assert expert_guard(mesh.experts[0], mesh.tickets, None, None, Telemetry.off()) is None


def test_an_expert_that_nobody_may_ask_is_closed_and_not_open(tmp_path: Path) -> None:
    mistakes(tmp_path)
    mesh = read(tmp_path / "mesh.yaml", {})
    closed = mesh.experts[0].model_copy(update={"accepts": ()})
    assert expert_guard(closed, mesh.tickets, None, None, Telemetry.off()) is not None


def test_other_callers_need_a_restart_and_that_is_said(tmp_path: Path) -> None:
    assert mistakes(tmp_path, PEERS) == []
    before = read(tmp_path / "mesh.yaml", {})
    assert mistakes(tmp_path, PEERS + f"callers: {{known: [{{name: a, token_sha256: [{HASH}]}}]}}\n") == []
    after = read(tmp_path / "mesh.yaml", {})
    assert left_for_restart(before, after) == ["callers"]


def test_keys_of_an_issuer_that_are_there_are_no_mistake(tmp_path: Path) -> None:
    Issuer(tmp_path / "keys.json")
    (tmp_path / "peer.token").write_text(new_token())
    assert json.loads((tmp_path / "keys.json").read_text())["keys"]
    more = PEERS + "callers: {jwt: {jwks: keys.json, issuer: i, audience: a}}\n"
    assert mistakes(tmp_path, more, starting=True) == []
