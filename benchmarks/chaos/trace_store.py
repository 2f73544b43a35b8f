"""The mesh's trace store as a process of its own: spans from the network, kept in a folder whose disk may be full."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from expertmesh_client.traces.disk_store import Bounds, disk_store
from expertmesh_client.traces.receiver import receiving
from mesh_wire import process

MAX_BYTES = 256 * 1024


def command(
    listen: Annotated[str, typer.Option(help="host:port")],
    folder: Annotated[Path, typer.Option(help="Where spans are kept.")],
) -> None:
    """Keep spans until told to stop."""
    process.begin()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    async def keep() -> int:
        with disk_store(folder, Bounds(max_bytes=MAX_BYTES), say) as store, receiving(listen, store):
            await process.terminated()
        return process.STOPPED

    sys.exit(process.run(keep()))


if __name__ == "__main__":
    typer.run(command)
