"""Tokens: what is good, what is not, and what is remembered."""

import base64
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from mesh_wire.auth import keys
from mesh_wire.auth.callers import Kind
from mesh_wire.auth.identity import Identities
from mesh_wire.auth.keys import Keys, KeysUnusable, public_keys
from mesh_wire.auth.sections import CallerSection, KnownCaller, PeerSection, Rights
from mesh_wire.auth.tokens import SHORTEST_TOKEN, hash_of, new_token
from mesh_wire.auth.web_tokens import WebTokens
from mesh_wire.errors import Forbidden, MeshError
from mesh_wire.section import KeySource
from support.issuer import Issuer


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "keys.json")


def reason(read: Callable[[], object]) -> str:
    try:
        read()
    except MeshError as error:
        return error.reason
    return ""


# What is good


def test_a_good_token_names_its_subject_until_its_end(issuer: Issuer) -> None:
    named = WebTokens(issuer.section()).read(issuer.token("web", exp=2e9))
    assert (named.subject, named.until) == ("web", 2e9)


def test_another_claim_may_name_the_caller(issuer: Issuer) -> None:
    tokens = WebTokens(issuer.section(claim="client_id"))
    assert tokens.read(issuer.token("ignored", client_id="web")).subject == "web"


def test_rsa_keys_are_good_for_each_of_their_algorithms_that_is_allowed(issuer: Issuer) -> None:
    issuer.add("k2", bits=2048)
    issuer.publish()
    tokens = WebTokens(issuer.section(algorithms=("RS256", "PS384")))
    for algorithm in ("RS256", "PS384"):
        assert tokens.read(issuer.token(kid="k2", algorithm=algorithm)).subject == "web"
    assert reason(lambda: tokens.read(issuer.token(kid="k2", algorithm="RS384"))) == "TOKEN_INVALID"
    assert reason(lambda: tokens.read(issuer.token())) == "TOKEN_INVALID"


# What is not


def forged(issuer: Issuer) -> dict[str, str]:
    by_secret = jwt.encode({"sub": "web"}, "s" * 32, algorithm="HS256", headers={"kid": "k1"})
    signed_part = by_secret.rpartition(".")[0]
    mac = hmac.digest(signed_part.encode(), issuer.file.read_bytes(), "sha256")
    other = Issuer(issuer.file.with_name("other.json"))
    header, payload, signature = issuer.token().split(".")
    return {
        "another key": other.token(),
        "no such key": other_kid(other),
        "no signature": jwt.encode({"sub": "web"}, None, algorithm="none", headers={"kid": "k1"}),
        "a secret": by_secret,
        "the public key as a secret": f"{signed_part}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}",
        "another payload": f"{header}.{payload[:-2]}AA.{signature}",
        "no token": "x" * 100,
        "too long": issuer.token(padding="x" * 10_000),
        "another issuer": issuer.token(iss="https://other.test"),
        "another audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "no end": issuer.token(exp=None),
        "an end that is no number": issuer.token(exp="soon"),
        "not yet": issuer.token(nbf=2e9),
        "no subject": issuer.token(None),
        "a subject that is no text": issuer.token(None, sub=7),
        "an unprintable subject": issuer.token("a\nb"),
        "an endless subject": issuer.token("a" * 200),
        "empty": "",
    }


def other_kid(other: Issuer) -> str:
    other.add("k9")
    return other.token(kid="k9")


def test_whatever_is_wrong_with_a_token_the_same_is_told_and_nothing_of_it(issuer: Issuer) -> None:
    tokens, told = WebTokens(issuer.section()), set()
    for token in forged(issuer).values():
        with pytest.raises(MeshError) as refusal:
            tokens.read(token)
        told.add((refusal.value.reason, str(refusal.value), tuple(refusal.value.facts)))
        assert not token or token not in str(refusal.value)
    assert len(told) == 1
    assert {one[0] for one in told} == {"TOKEN_INVALID"}


def test_a_token_that_was_good_is_told_apart(issuer: Issuer) -> None:
    tokens = WebTokens(issuer.section(leeway_s=10))
    assert reason(lambda: tokens.read(issuer.token(lasts_s=-5))) == ""
    assert reason(lambda: tokens.read(issuer.token(lasts_s=-11))) == "TOKEN_EXPIRED"
    assert reason(lambda: tokens.read(issuer.token(lasts_s=-11, iss="https://other.test"))) == "TOKEN_INVALID"


# Keys


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "has no list of `keys`"),
        ("{", "is no JSON"),
        ('{"keys": []}', "has no key by which"),
        ('{"keys": [{"kty": "oct", "k": "AAAA"}]}', "is a secret"),
        ('{"keys": [{"kty": "EC", "d": "AAAA"}]}', "is a secret"),
        ('{"keys": [{"kty": "AKP", "pub": "AAAA"}]}', "has no key by which"),
    ],
)
def test_a_file_without_public_keys_is_told(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(KeysUnusable, match=words):
        public_keys(file)


def test_a_key_that_is_too_short_is_told(issuer: Issuer) -> None:
    issuer.add("weak", bits=1024)
    issuer.publish()
    with pytest.raises(KeysUnusable, match="too short"):
        public_keys(issuer.file)


def test_keys_that_change_are_read_again_and_bad_ones_are_not(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    ring = Keys(issuer.file)
    assert not ring.renewed()

    issuer.file.write_text("nothing", encoding="utf-8")
    assert not ring.renewed()
    assert not ring.renewed()
    assert [kid for kid, _ in ring.ring] == ["k1"]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1

    issuer.add("k2")
    issuer.publish("k2")
    assert ring.renewed()
    assert [kid for kid, _ in ring.ring] == ["k2"]


# Who it is


def identities(issuer: Issuer, **fields: Any) -> Identities:
    section = CallerSection(known=(KnownCaller(name="web", subject="user-7", experts=("math",)),), jwt=issuer.section())
    return Identities(section, None, **fields)


def test_a_token_is_checked_once_until_its_end_or_its_key_s(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    clock = SimpleNamespace(now=1e9)
    who, token = identities(issuer, now=lambda: clock.now), issuer.token("user-7", exp=1e9 + 60)
    first = who.by_token(token)
    assert (first.name, first.kind, first.experts) == ("web", Kind.KNOWN, frozenset({"math"}))
    assert who.by_token(token) is first

    clock.now += 60
    assert reason(lambda: who.by_token(token)) == "TOKEN_EXPIRED"
    clock.now -= 60

    issuer.add("k2")
    issuer.publish("k2")
    assert reason(lambda: who.by_token(token)) == "TOKEN_INVALID"


def test_no_more_tokens_are_remembered_than_there_is_room_for(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_wire.auth.identity.REMEMBERED", 2)
    who = identities(issuer)
    one, two, three = (issuer.token("user-7", jti=str(number)) for number in range(3))
    first = who.by_token(one)
    second = who.by_token(two)
    assert who.by_token(one) is first
    who.by_token(three)
    assert who.by_token(one) is first
    assert who.by_token(two) is not second


def test_whom_the_issuer_alone_knows_may_do_what_the_unlisted_may(issuer: Issuer) -> None:
    assert reason(lambda: identities(issuer).by_token(issuer.token("user-8"))) == "CALLER_UNKNOWN"
    section = CallerSection(jwt=issuer.section(unlisted=Rights(max_in_flight=5)))
    caller = Identities(section, None, workers=2).by_token(issuer.token("user-8"))
    assert (caller.name, caller.limits.max_in_flight) == ("user-8", 3)


def test_a_peers_token_makes_a_peer(tmp_path: Path) -> None:
    file, token = tmp_path / "peer.token", new_token()
    file.write_text(f"{token}\n", encoding="utf-8")
    assert Identities(None, PeerSection(token=KeySource(file=file))).by_token(token).kind is Kind.PEER


def test_tokens_are_long_and_their_hashes_are_what_sha256sum_says() -> None:
    assert len(new_token()) > SHORTEST_TOKEN
    assert new_token() != new_token()
    assert hash_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_short_token_is_nobody_s_even_if_somebody_stored_its_hash() -> None:
    who = Identities(CallerSection(known=(KnownCaller(name="web", token_sha256=(hash_of("guess"),)),)), None)
    assert reason(lambda: who.by_token("guess")) == "TOKEN_INVALID"


def test_the_keys_of_an_issuer_are_json_web_keys(issuer: Issuer) -> None:
    assert {key["kty"] for key in json.loads(issuer.file.read_text())["keys"]} == {"EC"}
    with pytest.raises(Forbidden):
        identities(issuer).by_token(issuer.token("somebody"))
