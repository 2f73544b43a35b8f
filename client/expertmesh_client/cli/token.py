"""`expertmesh token`: a new token, and what the mesh file keeps of it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from expertmesh_client.cli import options


def token(
    of: Annotated[
        Path | None, typer.Option("--of", metavar="FILE", help="Hash the token in this file instead.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a token for a caller: the caller keeps the token, the mesh file keeps its hash alone.

    The hash belongs under `callers`, `known`, `token_sha256`; see docs/security.md.
    """
    from mesh_wire.auth.tokens import SHORTEST_TOKEN, hash_of, new_token

    made = new_token() if of is None else of.read_text(encoding="utf-8").strip()
    if len(made) < SHORTEST_TOKEN:
        raise typer.BadParameter(f"a token has at least {SHORTEST_TOKEN} characters", param_hint="--of")
    if as_json:
        print(
            json.dumps(
                {"token": made, "token_sha256": hash_of(made)} if of is None else {"token_sha256": hash_of(made)}
            )
        )
    else:
        print(*([f"token         {made}"] if of is None else []), f"token_sha256  {hash_of(made)}", sep="\n")
