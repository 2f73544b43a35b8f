"""Certificates are read again while servers run, and mutual TLS holds on every hop."""

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import grpc
import pytest

from expertmesh_client.aio import AsyncClient
from mesh_wire.auth.certificates import faults
from mesh_wire.auth.reloading import Certificates, Unusable
from support.asking import greedy
from support.calls import failure, whole
from support.certificates import SERVER, Authority, Files, Signed, authority
from support.engines import ByHand
from support.mesh import running_expert, running_router
from support.otlp import collecting, telemetry_to
from support.waiting import eventually


@pytest.fixture
def signer() -> Authority:
    return authority()


@pytest.fixture
def files(tmp_path: Path, signer: Authority) -> Files:
    found = Files(tmp_path)
    found.put("authority", signer)
    found.put("server", signer.sign(SERVER))
    found.put("client", signer.sign("router.test"))
    return found


async def shown_by(target: str) -> bytes:
    """The certificate that a server shows to a new connection, in DER."""

    def look() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        host, _, port = target.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=SERVER) as encrypted,
        ):
            return encrypted.getpeercert(binary_form=True) or b""

    return await asyncio.to_thread(look)


# What a server shows


async def test_a_new_certificate_is_shown_to_new_connections_while_the_old_ones_go_on(
    files: Files, signer: Authority
) -> None:
    engine, second = ByHand(), signer.sign(SERVER)
    async with running_expert(engine=engine, tls=files.server(), caller_tls=files.client()) as expert:
        call = expert.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)

        files.put("server", second)

        assert await shown_by(expert.target) == second.der
        engine.finish()
        assert (await whole(call)).finished


async def test_a_certificate_without_its_key_is_not_taken_until_the_key_is_there(
    files: Files, signer: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    second = signer.sign(SERVER)
    with collecting() as collector, telemetry_to(collector) as (_, telemetry):
        async with running_expert(tls=files.server(), caller_tls=files.client(), telemetry=telemetry) as expert:
            first = await shown_by(expert.target)

            files.replace("server.pem", second.pem)
            assert await shown_by(expert.target) == first
            assert await shown_by(expert.target) == first
            assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
                "the changed certificates are not taken, the old ones stay: "
                f"{files.folder / 'server.key'} is not the key of the certificate"
            ]

            files.replace("server.key", second.key_pem)

            async def taken() -> bool:
                return await shown_by(expert.target) == second.der

            await eventually(taken)
    outcomes = {
        point.attributes[0].value.string_value: point.as_int for point in collector.metrics["expertmesh.tls.reloads"]
    }
    assert outcomes == {"refused": 1, "taken": 1}
    assert 29 * 86_400 < collector.metrics["expertmesh.tls.certificate.left"][-1].as_double < 30 * 86_400


@pytest.mark.parametrize("spoil", ["gone", "no pem", "expired", "not yet", "encrypted key"])
def test_files_that_cannot_be_used_leave_what_was_shown_before(files: Files, signer: Authority, spoil: str) -> None:
    certificates = Certificates(files.server())
    match spoil:
        case "gone":
            (files.folder / "server.pem").unlink()
        case "no pem":
            files.replace("server.pem", b"-----BEGIN")
        case "expired":
            files.put("server", signer.sign(SERVER, days=(-2, -1)))
        case "not yet":
            files.put("server", signer.sign(SERVER, days=(1, 2)))
        case _:
            files.replace(
                "server.key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
            )

    assert certificates.changed() is None
    assert certificates.left_s() > 0


def test_files_that_were_taken_back_are_no_change(files: Files) -> None:
    certificates = Certificates(files.server())
    assert certificates.changed() is None


async def test_a_server_does_not_start_with_files_that_cannot_be_used(files: Files) -> None:
    files.replace("server.key", b"nothing")
    with pytest.raises(Unusable, match="is no private key"):
        async with running_expert(tls=files.server()):
            pass


async def test_another_authority_for_callers_is_believed_without_a_restart(files: Files) -> None:
    other = authority("other.test")
    files.put("callers", other)
    files.put("stranger", authority("another.test").sign("stranger.test"))
    files.put("friend", other.sign("friend.test"))
    async with running_expert(tls=files.server(authority="authority")) as expert:
        async with AsyncClient(expert.target, tls=files.client("friend")) as client:
            with pytest.raises(Exception, match="connect"):
                await client.generate("hi", timeout_s=20).read()

        files.replace("authority.pem", files.folder.joinpath("authority.pem").read_bytes() + other.pem)

        async with AsyncClient(expert.target, tls=files.client("friend")) as client:
            assert await client.generate("hi").read()
        async with AsyncClient(expert.target, tls=files.client("stranger")) as client:
            with pytest.raises(Exception, match="connect"):
                await client.generate("hi", timeout_s=20).read()


# Every hop


async def test_mutual_tls_holds_on_every_hop_and_around_the_router(files: Files) -> None:
    mutual, own = files.server(authority="authority"), files.client("client")
    async with (
        running_expert(tls=mutual) as expert,
        running_router(expert.target, expert_tls=own, tls=mutual) as router,
        AsyncClient(router.target, tls=own) as client,
        AsyncClient(router.target, tls=own, direct=True) as direct,
        AsyncClient(router.target, tls=files.client(), timeout_s=20) as nobody,
    ):
        assert await client.generate("hi").read()
        assert await direct.generate("hi").read()
        with pytest.raises(Exception, match="connect"):
            await nobody.generate("hi").read()


async def test_a_router_asks_with_its_new_certificate_once_the_old_one_is_refused(
    files: Files, signer: Authority
) -> None:
    """The expert comes back believing another authority; the router's files follow, and nothing is restarted."""
    second = authority("second.test")
    files.put("second", second)
    async with running_expert(tls=files.server(authority="authority")) as expert:
        port = expert.port
        life = running_router(expert.target, expert_tls=files.client("client"))
        router = await life.__aenter__()
        try:
            assert (await whole(router.inference.Generate(greedy()))).finished
        except BaseException:
            await life.__aexit__(None, None, None)
            raise
    try:
        listen = f"127.0.0.1:{port}"
        async with running_expert(tls=files.server(authority="second"), listen=listen):
            told = await failure(router.inference.Generate(greedy()))
            assert told.code is grpc.StatusCode.UNAVAILABLE

            files.put("client", second.sign("router.test"))

            async def served() -> bool:
                return bool(await router.serving())

            await eventually(served)
            assert (await whole(router.inference.Generate(greedy()))).finished
    finally:
        await life.__aexit__(None, None, None)


# What is wrong with files


def of(signed: Signed, **changed: bytes | None) -> list[tuple[str, str]]:
    parts: dict[str, bytes | None] = {"certificate": signed.pem, "key": signed.key_pem, "authority": None, **changed}
    return list(faults(**parts))  # type: ignore[arg-type]  # `at` is not among them


def test_good_files_have_no_faults(signer: Authority) -> None:
    assert of(signer.sign(SERVER), authority=signer.pem) == []


def test_all_faults_are_said_at_once(signer: Authority) -> None:
    old = signer.sign(SERVER, days=(-3, -1))
    told = of(old, key=signer.key_pem, authority=b"nothing")

    assert [part for part, _ in told] == ["certificate", "authority", "key"]
    assert told[0][1].startswith("expired on ")
    assert told[1:] == [("authority", "is no certificate in PEM form"), ("key", "is not the key of the certificate")]


def test_no_fault_quotes_a_key(signer: Authority) -> None:
    broken = signer.key_pem.replace(b"PRIVATE", b"PRIVAT")
    told = of(signer.sign(SERVER), key=broken)

    assert [part for part, _ in told] == ["key"]
    assert broken.splitlines()[1].decode() not in str(told)
