"""Tickets: what a router signs is good once, in time, for one thing; everything else is refused with its reason."""

import time
from pathlib import Path

import jwt
import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import tickets
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, Forbidden, MeshError, Unauthenticated
from mesh_wire.mesh_file import Mistakes, read
from mesh_wire.settings import KeySource, TicketSection
from mesh_wire.ticket_keys import Keys, keys_of
from mesh_wire.tickets import CLOCKS_APART_S, TicketGate, TicketOffice

OLD, NEW, ALIEN = b"o" * 32, b"n" * 32, b"a" * 32
MODELS = {"general": "base", "math": "math-adapter"}
MATH = GenerateRequest(prompt="sum", expert="math")


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def office(secret: bytes = OLD, name: str = "k1") -> TicketOffice:
    return TicketOffice(Keys({name: secret}), lifetime_s=30)


def gate(clock: Clock | None = None, **secrets: bytes) -> TicketGate:
    return TicketGate(Keys(secrets or {"k1": OLD}), "a", MODELS, clock or Clock())


def ticket(**other: str) -> str:
    about = {"replica": "a", "expert": "math", "model": "math-adapter", **other}
    return office().for_request(**about, deadline=Deadline())


def refused(at: TicketGate, ticket: str, request: GenerateRequest = MATH) -> MeshError:
    with pytest.raises(MeshError) as refusal:
        at.request(ticket, request, Deadline())
    return refusal.value


def test_a_ticket_lets_its_request_in_and_keeps_its_deadline() -> None:
    deadline = Deadline.after(7)

    assert gate().request(ticket(), MATH, deadline) is deadline


def test_a_request_without_a_name_is_for_the_first_expert() -> None:
    gate().request(ticket(expert="general", model="base"), GenerateRequest(prompt="x"), Deadline())


def test_nothing_is_a_missing_ticket() -> None:
    error = refused(gate(), "")

    assert (type(error), error.reason) == (Unauthenticated, "TICKET_MISSING")


@pytest.mark.parametrize(
    "forged",
    [
        "nonsense",
        "a.b.c",
        "é" * 50,
        office(ALIEN).for_request("a", "math", "math-adapter", Deadline()),
        office(name="k9").for_request("a", "math", "math-adapter", Deadline()),
        jwt.encode({"aud": "a", "exp": 9e9, "jti": "1", "use": "request", "expert": "math"}, "", algorithm="none"),
        jwt.encode({"aud": "a", "use": "request"}, OLD, algorithm="HS256", headers={"kid": "k1"}),
        jwt.encode({"aud": "a", "exp": "never", "jti": "1", "use": "request"}, OLD, headers={"kid": "k1"}),
        jwt.encode({"aud": "a", "exp": 9e9, "jti": ["1"], "use": "request"}, OLD, headers={"kid": "k1"}),
        ticket()[:-2],
    ],
)
def test_a_forged_ticket_is_invalid_and_is_not_repeated_in_the_refusal(forged: str) -> None:
    error = refused(gate(), forged)

    assert (type(error), error.reason) == (Unauthenticated, "TICKET_INVALID")
    assert forged not in str(error)
    assert error.__cause__ is None


def test_a_changed_ticket_is_invalid() -> None:
    head, body, tail = ticket().split(".")
    _, other, _ = ticket(expert="general").split(".")

    assert refused(gate(), f"{head}.{other}.{tail}").reason == "TICKET_INVALID"
    assert body != other


@pytest.mark.parametrize(
    ("other", "bound_to"),
    [({"replica": "b"}, "replica"), ({"expert": "general"}, "expert"), ({"model": "older-adapter"}, "model")],
)
def test_a_ticket_for_something_else_is_refused(other: dict[str, str], bound_to: str) -> None:
    error = refused(gate(), ticket(**other))

    assert (type(error), error.reason, error.facts["bound_to"]) == (Unauthenticated, "TICKET_INVALID", bound_to)


def test_a_ticket_for_a_session_is_none_for_a_request_and_the_other_way_about() -> None:
    assert refused(gate(), office().for_session("a")).facts["bound_to"] == "use"
    with pytest.raises(Unauthenticated, match="another use"):
        gate().session(ticket())


def test_a_session_is_opened_with_its_ticket_once_or_with_none() -> None:
    here, pass_ = gate(), office().for_session("a")

    assert here.session(pass_)
    assert not here.session("")
    with pytest.raises(Forbidden, match="TICKET_REPLAYED"):
        here.session(pass_)


def test_a_ticket_expires() -> None:
    clock = Clock()
    here = gate(clock)
    clock.now += 30 + CLOCKS_APART_S + 0.1

    error = refused(here, ticket())

    assert (type(error), error.reason) == (Unauthenticated, "TICKET_EXPIRED")


def test_a_used_ticket_is_refused_for_as_long_as_it_could_be_used() -> None:
    clock = Clock()
    here, once = gate(clock), ticket()
    here.request(once, MATH, Deadline())

    error = refused(here, once)
    clock.now += 30 + CLOCKS_APART_S - 0.1
    late = refused(here, once)

    assert {(type(each), each.reason) for each in (error, late)} == {(Forbidden, "TICKET_REPLAYED")}


def test_what_is_remembered_of_used_tickets_is_bounded_and_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "REMEMBERED", 2)
    clock = Clock()
    here = gate(clock)
    for _ in range(2):
        here.request(ticket(), MATH, Deadline())

    assert isinstance(refused(here, ticket()), Busy)
    fresh = jwt.encode({"exp": clock.now + 60, **BODY}, OLD, headers={"kid": "k1"})
    clock.now += 30 + CLOCKS_APART_S + 0.1
    here.request(fresh, MATH, Deadline())


BODY = {"aud": "a", "jti": "x", "use": "request", "expert": "math", "model": "math-adapter"}


def test_a_ticket_brings_its_deadline_with_it() -> None:
    def left_s(granted_s: float | None, asked_s: float | None) -> float | None:
        given = office().for_request("a", "math", "math-adapter", Deadline.after(granted_s))
        return gate().request(given, MATH, Deadline.after(asked_s)).left_s()

    assert left_s(None, None) is None
    assert left_s(10, None) == pytest.approx(10 + CLOCKS_APART_S, abs=1)
    assert left_s(10, 1000) == pytest.approx(10 + CLOCKS_APART_S, abs=1)
    assert left_s(1000, 10) == pytest.approx(10, abs=1)


def test_one_key_follows_another() -> None:
    both = gate(None, k2=NEW, k1=OLD)
    signs_new = TicketOffice(Keys({"k2": NEW, "k1": OLD}), 30)

    both.request(ticket(), MATH, Deadline())
    both.request(signs_new.for_request("a", "math", "math-adapter", Deadline()), MATH, Deadline())
    assert refused(gate(None, k2=NEW), ticket()).reason == "TICKET_INVALID"


def test_keys_do_not_show_their_secrets() -> None:
    keys = keys_of(TicketSection(keys={"k1": KeySource(env="KEY")}), {"KEY": "s" * 32})

    assert repr(keys) == "Keys(k1)"
    assert keys_of(TicketSection(), {}) is None


MESH = """\
router: {{strategy: round_robin, listen: "127.0.0.1:0"}}
experts: [{{name: a, listen: "127.0.0.1:0", serves: {{general: null}}, simulated: {{}}}}]
tickets:
  {}
"""


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("required: true", "mesh.yaml:3: tickets: tickets that are required need a key"),
        ("keys: {k1: {}}", "mesh.yaml:4: tickets.keys.k1: a key has either `file` or `env`"),
        ("keys: {k1: {env: NOWHERE}}", "mesh.yaml:4: tickets.keys.k1: the environment has no NOWHERE"),
        ("keys: {k1: {env: SHORT}}", "mesh.yaml:4: tickets.keys.k1: a key has at least 32 bytes"),
        ("keys: {k1: {file: short.key}}", "mesh.yaml:4: tickets.keys.k1: a key has at least 32 bytes"),
        ("keys: {k1: {file: none.key}}", "none.key: No such file or directory"),
        ("lifetime_s: 0", "mesh.yaml:4: tickets.lifetime_s: input should be greater than 0"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_mistake_of_the_file(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH.format(written))
    (tmp_path / "short.key").write_text("too-short-a-secret")

    with pytest.raises(Mistakes) as mistakes:
        read(tmp_path / "mesh.yaml", {"SHORT": "too-short-a-secret"}, router=True)

    assert said in str(mistakes.value)
    assert "too-short-a-secret" not in str(mistakes.value)


def test_a_key_file_stands_beside_the_mesh_file(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH.format("{required: true, keys: {k1: {file: k1.key}}}"))
    (tmp_path / "k1.key").write_bytes(b"s" * 32 + b"\n")

    mesh = read(tmp_path / "mesh.yaml", {}, router=True)

    assert keys_of(mesh.tickets, {}) == Keys({"k1": b"s" * 32})
