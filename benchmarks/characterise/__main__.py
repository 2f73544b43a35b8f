"""Configurations of experts under up to a thousand users, and a report that judges the paper's findings by them.

    python -m benchmarks.characterise [--real] [--simulated] [--quick] [--minutes N] [--out FOLDER]

Real vLLM engines on this machine's CPU, and engines that are simulated by profiles of published H100 measurements;
both unless one is named. What is measured is kept in `--results` cell by cell; a second run measures what is missing,
and one that misses nothing only writes the report. Ctrl-C ends it with the report of what there is.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.characterise.climbing import climb_grid
from benchmarks.characterise.configurations import Configuration, real, simulated
from benchmarks.characterise.grid import Cell, cells
from benchmarks.characterise.report import build
from benchmarks.characterise.rows import row_of, series_of
from benchmarks.characterise.show import Show
from benchmarks.characterise.store import NotKept, Store
from expertmesh_client.load.limits import check_descriptors, descriptors
from expertmesh_client.load.plan import PER_USER, Job
from expertmesh_client.load.problems import BadLoad
from mesh_wire.process import terminated

ROOT = Path(__file__).parents[2]
QUICK_LADDER, QUICK_S = [1, 10, 50], 3.0
QUICK_KEYS = ("hop", "8b-16bit", "70b-16bit-tp8", "8b-random", "cpu-hop")
INTERRUPTED, WRONG, FAILED = 130, 2, 1  # exit codes


class Wrong(Exception):
    """What was asked for cannot be done; nothing was started."""


def ladder_of(written: str) -> list[int] | None:
    """Read a ladder such as 1,10,100; None for each configuration's own.

    Raises:
        Wrong: it is none.
    """
    if not written:
        return None
    try:
        rungs = sorted({int(part) for part in written.split(",")})
    except ValueError:
        raise Wrong(f"--users: {written} is no ladder; write numbers of users, such as 1,10,100") from None
    if rungs[0] < 1:
        raise Wrong(f"--users: {rungs[0]} users are none")
    return rungs


def chosen(configurations: Sequence[Configuration], only: str) -> list[Configuration]:
    """Return the configurations whose keys are named, all without names.

    Raises:
        Wrong: a name is of none.
    """
    if not only:
        return list(configurations)
    named = only.split(",")
    if unknown := set(named) - {each.key for each in configurations}:
        known = ", ".join(each.key for each in configurations)
        raise Wrong(f"--only: there is no {', '.join(sorted(unknown))}; there are {known}")
    return [each for each in configurations if each.key in named]


def check(grid: Sequence[Cell], connections: int, limit: int) -> None:
    """Check what the ladder needs before anything starts.

    Raises:
        Wrong: it goes beyond the file descriptors of a process.
    """
    rungs = [cell.rung for cell in grid]
    try:
        check_descriptors(Job(target="", connections=connections), rungs, limit)
    except BadLoad as error:
        raise Wrong(str(error)) from None


def main(
    only_real: Annotated[bool, typer.Option("--real", help="Real vLLM engines on this CPU.")] = False,
    only_simulated: Annotated[bool, typer.Option("--simulated", help="Simulated H100 engines.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few configurations, 1, 10 and 50 users.")] = False,
    users: Annotated[str, typer.Option(help="The ladder, in place of each configuration's own.")] = "",
    only: Annotated[str, typer.Option(help="Keys of the configurations to take, with commas.")] = "",
    minutes: Annotated[float | None, typer.Option(min=0, help="No cell begins after so long.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="That count in each cell.")] = None,
    capacity: Annotated[float, typer.Option(min=1, help="Tokens/s that this machine carries, for simulations.")] = 5000,
    connections: Annotated[str, typer.Option(metavar="N|user", help="Of the load's process to the mesh.")] = "4",
    results: Annotated[Path, typer.Option(help="Where each cell's result is kept.")] = ROOT / ".cache/characterise",
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = ROOT / ".cache/characterisation",
) -> None:
    """Measure what is missing of the grid, and write the report."""
    both = only_real == only_simulated
    configurations = [*(real() if both or only_real else []), *(simulated(capacity) if both or only_simulated else [])]
    if quick:
        configurations = [each for each in configurations if each.key in QUICK_KEYS]
    try:
        configurations = chosen(configurations, only)
        ladder = ladder_of(users) or (QUICK_LADDER if quick else None)
        grid = list(cells(configurations, ladder, seconds=seconds or (QUICK_S if quick else None)))
        if connections != "user" and not connections.isdecimal():
            raise Wrong(f"--connections: {connections} is neither a number nor user")
        per_process = PER_USER if connections == "user" else max(1, int(connections))
        check(grid, per_process, descriptors())
        store = Store(results)
        code = asyncio.run(_run(grid, configurations, store, out, per_process, minutes))
    except (Wrong, NotKept) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(WRONG if isinstance(error, Wrong) else FAILED) from None
    raise typer.Exit(code)


async def _run(
    grid: Sequence[Cell],
    configurations: Sequence[Configuration],
    store: Store,
    out: Path,
    connections: int,
    minutes: float | None,
) -> int:
    if others := store.others(grid):
        print(f"{store.folder}: {others} results of other grids or versions are left alone", file=sys.stderr)
    stop, failed = asyncio.Event(), {}
    heeding = asyncio.create_task(_heed(stop))
    await asyncio.sleep(0)  # it heeds from here on
    until = None if minutes is None else time.monotonic() + 60 * minutes
    lost: NotKept | None = None
    try:
        with Show(sys.stderr, len(grid)) as show:
            failed = await climb_grid(grid, store, show, connections=connections, stop=stop, until=until)
    except NotKept as error:
        lost = error
    finally:
        heeding.cancel()
        await asyncio.gather(heeding, return_exceptions=True)
    _report(grid, configurations, store, out, failed)
    if lost is not None:
        raise lost
    return INTERRUPTED if stop.is_set() else FAILED if failed else 0


async def _heed(stop: asyncio.Event) -> None:
    await terminated()
    stop.set()


def _report(
    grid: Sequence[Cell], configurations: Sequence[Configuration], store: Store, out: Path, failed: dict[str, str]
) -> None:
    """Write the report of what there is; of nothing there is none."""
    told = [(cell, store.read(cell)) for cell in grid]
    rows = [row_of(result) for _, result in told if result is not None]
    if not rows:
        print("nothing was measured: there is no report", file=sys.stderr)
        return
    missing = [cell.configuration.title for cell, result in told if result is None or not result["complete"]]
    written = build(out, series_of(configurations, rows), command=_command(), missing=missing, failed=failed)
    done = len(grid) - len(missing)
    print(f"{written}: {done} of {len(grid)} loads" + (" (incomplete)" if missing else ""), file=sys.stderr)


def _command() -> str:
    return " ".join(["python -m benchmarks.characterise", *sys.argv[1:]])


if __name__ == "__main__":
    typer.run(main)
