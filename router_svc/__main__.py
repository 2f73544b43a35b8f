"""`python -m router_svc`: one router process."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh_wire import mesh_file, process


def command(
    config: Annotated[
        Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file; ROUTER_<FIELD> replaces a field of it.")
    ] = Path("mesh.yaml"),
) -> None:
    """Run one router: read each prompt, choose its expert, stream the answer.

    SIGINT or SIGTERM drains it. Exit codes: 0 stopped, 1 failed, 2 misconfigured. Telemetry goes where
    OTEL_EXPORTER_OTLP_ENDPOINT says. EXPERTMESH_LOG sets the log's level.
    """
    process.begin()
    from router_svc.artefact import ArtefactError
    from router_svc.service import main

    try:
        sys.exit(process.run(main(mesh_file.read(config, router=True))))
    except (mesh_file.Mistakes, ArtefactError) as error:
        process.say_error(error)
        sys.exit(process.MISCONFIGURED)
    except OSError as error:
        process.say_error(error)
        sys.exit(process.FAILED)


if __name__ == "__main__":
    typer.run(command)
