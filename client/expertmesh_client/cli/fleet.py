"""`expertmesh route` and `expertmesh experts`: what the router thinks and knows."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from expertmesh_client.cli import options

if TYPE_CHECKING:
    from expertmesh.v1.router_pb2 import RouteResponse
    from expertmesh_client.aio import AsyncClient
    from mesh_wire.tls import ClientTls

Response = TypeVar("Response")


def route(
    prompt: options.Prompt,
    target: options.Target = options.DEFAULT_TARGET,
    expert: options.Expert = "",
    as_json: options.Json = False,
    timeout: options.Timeout = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
) -> None:
    """Show who would answer a prompt, and why, without asking."""
    from expertmesh_client.cli.shapes import route_shape

    asked = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    response = _asked(target, encrypted, lambda client: client.route(asked, expert=expert, timeout_s=timeout))
    if as_json:
        print(json.dumps(route_shape(response), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(response)))


def experts(
    target: options.Target = options.DEFAULT_TARGET,
    as_json: options.Json = False,
    timeout: options.Timeout = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
) -> None:
    """Show the fleet and its load."""
    from expertmesh_client.cli.shapes import fleet_lines, fleet_shape

    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    fleet = _asked(target, encrypted, lambda client: client.experts(timeout_s=timeout))
    if as_json:
        print(json.dumps(fleet_shape(fleet), ensure_ascii=False, indent=2))
    else:
        print("\n".join(fleet_lines(fleet)))


def _asked(target: str, tls: "ClientTls | None", what: "Callable[[AsyncClient], Awaitable[Response]]") -> Response:
    import asyncio

    options.quiet_grpc()
    from expertmesh_client.aio import AsyncClient

    async def asked() -> Response:
        async with AsyncClient(target, tls=tls) as client:
            return await what(client)

    return asyncio.run(asked())


def _lines(response: "RouteResponse") -> list[str]:
    """Return a decision for people: who and why, then the scores as bars."""
    from expertmesh_client.cli.shapes import columns
    from mesh_wire.words import reason_word

    route = response.route
    lines = [
        f"{route.expert} on {route.replica} ({response.endpoint})",
        f"{reason_word(route.reason)}: {route.explanation}" if route.explanation else reason_word(route.reason),
    ]
    if response.scores:
        lines.append(f"strategy {route.strategy}, threshold {response.threshold:.2f}, margin {response.margin:.2f}")
        bars = [(f"  {one.expert}", f"{one.score:.3f}", "█" * round(one.score * 40)) for one in response.scores]
        lines += columns(bars)
    return lines
