"""Did a hop become slower? `python -m benchmarks.overhead` (`make overhead`) says so within two minutes, or passes.

A router, an expert with a simulated engine and the client are asked the same work directly, by sessions and by
`Generate`, in turn, round by round. Of each hop, which is a process, CPU per token is taken; its unit is the CPU of a
reference beside it that does work of the same kind with nothing of this project in it, so that a slow machine, or a
busy one, is no regression. Medians over rounds are compared with the baseline of this kind of processor, in
`benchmarks/overhead/baselines`; on one that has none nothing is judged, which is said aloud. A hop fails when its cost,
beside that of the others of its way, is above the baseline by more than the tolerance even at the lower end of where,
by the noise of this run, the median may lie. Rounds go on until every hop can be judged, or the time is over: what
cannot be told then passes, and is said aloud; `--strict` fails it.

Exit codes: 0 no regression, 1 a regression, 2 misused, 3 too noisy to tell (`--strict`), 4 nothing could be measured.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.overhead.baseline import Baseline, NoBaseline, file_of
from benchmarks.overhead.company import awake
from benchmarks.overhead.gate import Row, enough, outcome, rows_of
from benchmarks.overhead.judging import Verdict
from benchmarks.overhead.mesh import NotUp, running
from benchmarks.overhead.reference import running_reference
from benchmarks.overhead.rounds import SIMULATION, TOKENS, USERS, Round, open_ways
from benchmarks.report import machine
from mesh_wire.errors import MeshError
from mesh_wire.process import run, say_error

WORSE, TOO_NOISY, UNMEASURED = 1, 3, 4
PLANTABLE = ("router", "expert")
PLANT = 0.2  # where no share is given


def planted(wishes: list[str]) -> dict[str, float]:
    """Return hop -> share, from `HOP` or `HOP=SHARE`."""
    found = {}
    for wish in wishes:
        hop, _, share = wish.partition("=")
        try:
            found[hop] = float(share or PLANT)
        except ValueError:
            raise typer.BadParameter(f"{share!r} is no share, such as 0.2") from None
        if hop not in PLANTABLE or not 0 < found[hop] <= 10:
            raise typer.BadParameter(f"{wish!r}: one of {', '.join(PLANTABLE)}, by a share above 0, such as router=0.2")
    return found


async def measure(seconds: float, plants: Mapping[str, float], until: Baseline | None, tolerance: float) -> list[Round]:
    """Make rounds for so long, or until each hop can be judged by a baseline."""
    ends, rounds = time.monotonic() + seconds, list[Round]()
    with tempfile.TemporaryDirectory() as folder, awake():
        async with (
            running_reference() as reference,  # before gRPC has threads, which do not like a fork
            running(Path(folder), SIMULATION, plants) as processes,
            open_ways(processes, reference) as ways,
        ):
            began = time.monotonic()
            while True:
                rounds.append(await ways.round())
                now = time.monotonic()
                if now + (now - began) / len(rounds) > ends:
                    return rounds
                if until is not None and enough(rounds, until, tolerance):
                    return rounds


def show(rows: list[Row], baseline: Baseline) -> None:
    table = Table("way", "hop", title="CPU per token, and each hop's share of it", title_justify="left")
    for heading in ("baseline", "now", "others", "beside them", "between", "share was", "share"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        low, high = (f"{100 * bound:+.0f}" for bound in (row.change.low, row.change.high))
        table.add_row(
            *(row.way, row.hop, f"{row.cost_was:.4f}", f"{row.cost:.4f}"),
            *(f"{100 * row.company:+.1f} %", f"{100 * row.change.middle:+.1f} %"),
            *(f"{low} … {high} %", f"{100 * row.share_was:.1f} %", f"{100 * row.share:.1f} %"),
            row.change.verdict.value,
        )
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    print(f"1 is the CPU of a step of the reference, {baseline.unit_us:.0f} µs when the baseline was recorded")


def command(
    seconds: Annotated[float, typer.Option(min=5, help="The most that it takes, all included.")] = 95.0,
    tolerance: Annotated[float, typer.Option(min=0.01, help="The share by which a hop may cost more.")] = 0.1,
    plant: Annotated[
        list[str] | None, typer.Option(help="Slow a hop down, router or expert, by a share of its CPU: router=0.2.")
    ] = None,
    baseline_file: Annotated[
        Path | None, typer.Option("--baseline", help="What to compare with; absent: that of this processor.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the baseline anew, in place of comparing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail, with 3, where noise leaves a hop unjudged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the CPU per token of each hop with the recorded baseline."""
    plants = planted(plant or [])
    if plants and record:
        raise typer.BadParameter("a baseline with a plant in it would hide what the plant is for")
    file = baseline_file or file_of(machine()["processor"])
    if not (baseline_file or record or file.exists()):
        print(f"overhead: UNJUDGED, there is no {file.name}: --record makes it", file=sys.stderr, flush=True)
        raise typer.Exit(TOO_NOISY if strict else 0)
    rounds: list[Round] = []

    async def measuring() -> int:
        rounds.extend(await measure(seconds, plants, baseline, tolerance))
        return 0

    try:
        baseline = None if record else Baseline.read(file)
        run(measuring())
    except NoBaseline as error:
        say_error(error)
        raise typer.Exit(2) from None
    except (NotUp, MeshError, OSError) as error:
        say_error(error)
        raise typer.Exit(UNMEASURED) from None
    except Exception:  # Python's own exit code for it is that of a regression
        traceback.print_exc()
        raise typer.Exit(UNMEASURED) from None
    if baseline is None:
        Baseline.of(rounds, machine()).write(file)
        print(f"{file}: {len(rounds)} rounds")
        return
    rows = rows_of(rounds, baseline, tolerance)
    found = outcome(rows)
    if as_json:
        told = [{**asdict(row), "change": {**asdict(row.change), "verdict": row.change.verdict.value}} for row in rows]
        print(json.dumps({"outcome": found.value, "rounds": len(rounds), "machine": machine(), "rows": told}))
    else:
        show(rows, baseline)
        print(f"{len(rounds)} rounds of {USERS} answers × {TOKENS} tokens by each way; load {os.getloadavg()[0]:.1f}")
    say(found, rows, tolerance)
    codes = {Verdict.WORSE: WORSE} | ({Verdict.UNSURE: TOO_NOISY} if strict else {})
    raise typer.Exit(codes.get(found, 0))


def say(found: Verdict, rows: list[Row], tolerance: float) -> None:
    """Say the outcome on standard error."""
    named = ", ".join(f"{row.way}/{row.hop}" for row in rows if row.change.verdict is found)
    words = {
        Verdict.SAME: "overhead: no hop costs more than it did",
        Verdict.BETTER: f"overhead: better than the baseline: {named}; record it with --record",
        Verdict.WORSE: f"overhead: REGRESSION, above the baseline by more than {tolerance:.0%}: {named}",
        Verdict.UNSURE: f"overhead: PASSED UNJUDGED, the machine is too noisy to tell: {named}",
    }
    print(words[found], file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(command)
