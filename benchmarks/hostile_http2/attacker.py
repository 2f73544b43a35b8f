"""An attack as a process of its own, on a core of its own, so that its work is not taken for the server's."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from benchmarks.data_plane.host import ROOT, python
from benchmarks.hostile_http2.attacks import ATTACKS
from benchmarks.hostile_http2.wire import Pace
from mesh_wire import process

STANDS_WITHIN_S = 120.0


@asynccontextmanager
async def attacking(name: str, port: int, core: int) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Attack from the moment at which it goes on, or stands, until the block ends.

    Raises:
        RuntimeError: it did not come so far.
    """
    command = python("benchmarks.hostile_http2.attacker", "--name", name, "--port", str(port), "--core", str(core))
    paths = os.pathsep.join(str(each) for each in (ROOT / "protos", ROOT / "client", ROOT))
    env = {**os.environ, "PYTHONPATH": paths, "EXPERTMESH_PARENT": str(os.getpid())}
    # Without a `preexec_fn`, for which Python would fork, beside gRPC's threads.
    attacker = subprocess.Popen(  # noqa: S603, ASYNC220 - our own, and quick
        command, stdout=subprocess.PIPE, env=env, cwd=ROOT, process_group=0
    )
    with attacker:
        assert attacker.stdout is not None
        try:
            said = asyncio.to_thread(attacker.stdout.readline)
            try:
                if not await asyncio.wait_for(said, STANDS_WITHIN_S):
                    raise RuntimeError(f"{name}: the attacker ended by itself")
            except TimeoutError:
                raise RuntimeError(f"{name} does not stand after {STANDS_WITHIN_S:g} s") from None
            yield attacker
        finally:
            attacker.kill()


async def attack(name: str, port: int) -> None:
    """Attack to the end of the process; says so once it goes on, or stands."""
    one = ATTACKS[name]
    if one.stands:
        async with one.block(port, Pace(one.per_s)):
            print("it stands", flush=True)
            await asyncio.Event().wait()
    print("it goes on", flush=True)
    pace = Pace(one.per_s)
    while True:
        async with one.block(port, pace):
            pass


def command(
    name: Annotated[str, typer.Option(help="Of the attack.")],
    port: Annotated[int, typer.Option(help="Of the server.")],
    core: Annotated[int, typer.Option(help="Where it runs.")],
) -> None:
    """Attack."""
    process.begin("ERROR")
    os.sched_setaffinity(0, {core})
    try:
        asyncio.run(attack(name, port))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    typer.run(command)
