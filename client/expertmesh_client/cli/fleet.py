"""`expertmesh experts`: what the router knows."""

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from expertmesh_client.cli import options

if TYPE_CHECKING:
    from expertmesh_client.aio import AsyncClient
    from mesh_wire.tls import ClientTls

Response = TypeVar("Response")


def experts(
    target: options.Target = options.DEFAULT_TARGET,
    as_json: options.Json = False,
    timeout: options.Timeout = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show the fleet and its load."""
    from expertmesh_client.cli.shapes import fleet_lines, fleet_shape

    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    fleet = asked(target, encrypted, options.token_of(token_file), lambda client: client.experts(timeout_s=timeout))
    if as_json:
        print(json.dumps(fleet_shape(fleet), ensure_ascii=False, indent=2))
    else:
        print("\n".join(fleet_lines(fleet)))


def asked(
    target: str, tls: "ClientTls | None", token: str | None, what: "Callable[[AsyncClient], Awaitable[Response]]"
) -> Response:
    """Ask a router one thing."""
    import asyncio

    options.quiet_grpc()
    from expertmesh_client.aio import AsyncClient

    async def ask() -> Response:
        async with AsyncClient(target, tls=tls, token=token) as client:
            return await what(client)

    return asyncio.run(ask())
