"""What a container's health check says of a server: serving, draining, gone, or spoken to wrongly."""

import asyncio
import sys
from pathlib import Path

import pytest

from mesh_wire.healthcheck import ASKED_WRONGLY, DOES_NOT, SERVES, main
from mesh_wire.tls import ClientTls, ServerTls
from support.mesh import running_expert

TLS = Path(__file__).parents[1] / "support" / "tls"


async def asked(*arguments: str) -> int:
    return await asyncio.to_thread(main, [*arguments, "--timeout", "2"])


async def test_a_server_that_serves_is_healthy() -> None:
    async with running_expert() as expert:
        assert await asked("--target", expert.target) == SERVES
        assert await asked("--target", expert.target, "--service", "expertmesh.v1.ExpertService") == SERVES


async def test_a_service_that_the_server_lacks_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_expert() as expert:
        assert await asked("--target", expert.target, "--service", "expertmesh.v1.RouterService") == DOES_NOT
    assert capsys.readouterr().err == f"{expert.target} has no service expertmesh.v1.RouterService\n"


async def test_a_server_that_drains_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_expert() as expert:
        await expert.server.withdraw()
        assert await asked("--target", expert.target) == DOES_NOT
    assert capsys.readouterr().err == f"{expert.target}: NOT_SERVING\n"


async def test_nobody_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_expert() as expert:
        pass
    assert await asked("--target", expert.target) == DOES_NOT
    said = capsys.readouterr().err
    assert said.startswith(f"{expert.target}: UNAVAILABLE")
    assert said.count("\n") == 1


async def test_tls_on_both_sides_is_spoken() -> None:
    server = ServerTls(certificate=TLS / "server.pem", key=TLS / "server.key", client_authority=TLS / "authority.pem")
    caller = ClientTls(
        authority=TLS / "authority.pem",
        certificate=TLS / "client.pem",
        key=TLS / "client.key",
        server_name="expert.test",
    )
    flags = ["--authority", TLS / "authority.pem", "--server-name", "expert.test"]
    pair = ["--certificate", TLS / "client.pem", "--key", TLS / "client.key"]
    async with running_expert(tls=server, caller_tls=caller) as expert:
        assert await asked("--target", expert.target, *map(str, flags + pair)) == SERVES
        assert await asked("--target", expert.target) == DOES_NOT
        assert await asked("--target", expert.target, *map(str, flags)) == DOES_NOT


@pytest.mark.parametrize(
    "arguments",
    [["--certificate", "mine.pem"], ["--authority", "not-there.pem"], ["--timeout", "soon"]],
    ids=["half a pair", "no such file", "no number"],
)
def test_a_check_that_cannot_be_made_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == ASKED_WRONGLY


async def test_it_runs_as_a_command() -> None:
    async with running_expert() as expert:
        command = (sys.executable, "-m", "mesh_wire.healthcheck", "--target", expert.target)
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == SERVES
