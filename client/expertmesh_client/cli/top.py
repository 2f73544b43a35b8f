"""`expertmesh top`: the fleet, live."""

import json
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from expertmesh_client.cli import options

if TYPE_CHECKING:
    from mesh_wire.tls import ClientTls

ANSWER_WITHIN_S = 5.0


def top(
    target: options.Target = options.DEFAULT_TARGET,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once: one frame, and the end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per look, each on a line of its own.")
    ] = False,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
) -> None:
    """Show the fleet live, until Ctrl-C: experts with their routes and first tokens, replicas with their loads.

    UP counts an expert's replicas that serve, ROUTES/S and BY REASON what was routed to it lately and why, FIRST the
    time to first token. RUN and WAIT are a replica's requests in its batch and before it, KV the share of its cache in
    use, EXPECT the wait by which it is chosen, OURS what this router process has under way there; * answers when the
    router is unsure. A router of several workers is several processes: one of them tells, of its own requests only,
    and says which; loads are the replicas' own.

    A router that does not answer is asked again. With --once that is exit code 1.
    """
    import asyncio

    from expertmesh_client.stopping import until_told

    options.quiet_grpc()
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    if once:
        asyncio.run(_once(target, encrypted, as_json))
    else:
        asyncio.run(until_told(_live(target, encrypted, interval, as_json)))


async def _once(target: str, tls: "ClientTls | None", as_json: bool) -> None:
    from rich.console import Console

    from expertmesh_client.aio import AsyncClient
    from expertmesh_client.top.frame import frame
    from expertmesh_client.top.looking import Look
    from expertmesh_client.top.shape import look_shape

    async with AsyncClient(target, tls=tls, token=options.token_of(None), timeout_s=ANSWER_WITHIN_S) as client:
        look = Look(target, await client.experts(), time.monotonic())
    if as_json:
        print(json.dumps(look_shape(look), ensure_ascii=False))
    else:
        Console(file=sys.stdout, highlight=False).print(frame(look, look.told_at, 0.0))


async def _live(target: str, tls: "ClientTls | None", interval_s: float, as_json: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from expertmesh_client.aio import AsyncClient
    from expertmesh_client.top.frame import frame
    from expertmesh_client.top.looking import looks
    from expertmesh_client.top.shape import look_shape

    console = Console(file=sys.stdout, highlight=False)
    async with (
        AsyncClient(target, tls=tls, token=options.token_of(None), timeout_s=ANSWER_WITHIN_S) as client,
        aclosing(looks(target, client.experts, interval_s)) as seen,
    ):
        if as_json or not console.is_terminal:  # a pipe: one frame after the other
            async for look in seen:
                if as_json:
                    print(json.dumps(look_shape(look), ensure_ascii=False), flush=True)
                else:
                    console.print(frame(look, time.monotonic(), interval_s), "")
                    sys.stdout.flush()
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            async for look in seen:
                live.update(frame(look, time.monotonic(), interval_s), refresh=True)
