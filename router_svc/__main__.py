"""`python -m router_svc`: one router process."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mesh_wire import mesh_file, process, supervisor
from mesh_wire.settings import Mesh
from router_svc.reloading.source import Source


def command(
    config: Annotated[
        Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file; ROUTER_<FIELD> replaces a field of it.")
    ] = Path("mesh.yaml"),
) -> None:
    """Run one router: read each prompt, choose its expert, stream the answer.

    With `workers` in the file, it is as many processes on one port; one that dies is started again, and SIGUSR1 starts
    all of them again, one after the other. A mesh file or an artefact that changes is taken within seconds, without a
    restart; one that cannot be used is not, and the log says why.
    SIGINT or SIGTERM drains it. Exit codes: 0 stopped, 1 failed, 2 misconfigured. Telemetry goes where
    OTEL_EXPORTER_OTLP_ENDPOINT says; with `metrics` in the file, Prometheus finds metrics there, those of each further
    worker at the next port. EXPERTMESH_LOG sets the log's level.
    """
    process.begin()
    try:
        source = Source.read(config)
        mesh = source.mesh
        if mesh.router.workers == 1:
            sys.exit(_route(source, mesh))
        with supervisor.held(mesh.router.listen) as listen:
            shared = mesh.model_copy(update={"router": mesh.router.model_copy(update={"listen": listen})})
            sys.exit(supervisor.supervise(partial(_route, source, shared), mesh.router.workers))
    except mesh_file.Mistakes as error:
        process.say_error(error)
        sys.exit(process.MISCONFIGURED)
    except OSError as error:
        process.say_error(error)
        sys.exit(process.FAILED)


def _route(source: Source, mesh: Mesh, worker: int = 0, ready: Callable[[], None] = lambda: None) -> int:
    """Be a router to the process's end; returns the exit code.

    Args:
        mesh: what the source says, but for the port that workers share.
    """
    from router_svc.service import main
    from router_svc.strategies.artefact import ArtefactError  # here: a supervisor has no threads, such as NumPy's

    try:
        return process.run(main(mesh, worker, ready, source=source))
    except ArtefactError as error:
        process.say_error(error)
        return process.MISCONFIGURED
    except OSError as error:
        process.say_error(error)
        return process.FAILED


if __name__ == "__main__":
    typer.run(command)
