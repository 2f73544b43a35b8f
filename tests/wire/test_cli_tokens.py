"""The command line shows who asks, and makes tokens."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expertmesh_client.cli import app, options
from mesh_wire.auth.sections import CallerSection, KnownCaller
from mesh_wire.auth.tokens import hash_of, new_token
from support.mesh import running_mesh


def test_a_token_is_made_with_the_hash_that_the_mesh_file_keeps() -> None:
    made = json.loads(CliRunner().invoke(app, ["token", "--json"]).stdout)
    assert made["token_sha256"] == hashlib.sha256(made["token"].encode()).hexdigest()
    assert KnownCaller(name="a", token_sha256=(made["token_sha256"],))


def test_a_token_that_is_there_is_hashed_and_not_shown(tmp_path: Path) -> None:
    file, token = tmp_path / "token", new_token()
    file.write_text(f"{token}\n")
    done = CliRunner().invoke(app, ["token", "--of", str(file)])
    assert done.stdout == f"token_sha256  {hash_of(token)}\n"


def test_what_could_be_guessed_is_no_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    assert CliRunner().invoke(app, ["token", "--of", str(file)]).exit_code == 2


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.token_of(None) is None
    monkeypatch.setenv("EXPERTMESH_TOKEN", "one")
    assert options.token_of(None) == "one"
    file = tmp_path / "token"
    file.write_text("two\n")
    assert options.token_of(file) == "two"
    monkeypatch.setenv("EXPERTMESH_TOKEN_FILE", str(file))
    assert options.token_of(None) == "two"


@pytest.mark.parametrize("args", [["ask", "hi", "--max-tokens", "3"], ["route", "hi"], ["experts"], ["chat"]])
async def test_every_command_that_asks_a_router_shows_the_token(tmp_path: Path, args: list[str]) -> None:
    file, token = tmp_path / "token", new_token()
    file.write_text(token)
    known = KnownCaller(name="me", token_sha256=(hash_of(token),))
    async with running_mesh(callers=CallerSection(known=(known,))) as mesh:
        runner, to = CliRunner(), ["--target", mesh.target]
        stdin = "hi\n" if args == ["chat"] else None
        shown = await asyncio.to_thread(runner.invoke, app, [*args, *to, "--token-file", str(file)], input=stdin)
        assert shown.exit_code == 0, shown.output
        without = await asyncio.to_thread(runner.invoke, app, [*args, *to], input=stdin)
        assert without.exit_code == 1
        assert "CREDENTIALS_MISSING" in without.output
