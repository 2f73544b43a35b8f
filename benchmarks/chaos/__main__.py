"""Break a mesh on purpose, and check every answer token by token: `python -m benchmarks.chaos` (`make chaos`).

Two routers, three replicas of each of two experts and their callers run as processes, each in a network namespace; the
engines are simulated, so that what they must say is known. Processes get SIGKILL, SIGSTOP and SIGTERM; links lose,
lag, reorder, are cut one way or swallow everything; names lead nowhere; the disk under the trace store is full. The
seed, which is printed, gives the same faults again. Needs root, iproute2 and nftables.

`--scenario soak --minutes 60` breaks nothing: it judges whether each process's memory stays where it is.

Exit codes: 0 passed, 1 failed, 2 misused, 3 this machine has no namespaces for it.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos.director import NotUp, mesh_under_load
from benchmarks.chaos.mesh import GROUPS, PROFILE
from benchmarks.chaos.network import CannotRun
from benchmarks.chaos.plan import KINDS, plan
from benchmarks.chaos.scenarios import SCENARIOS, play
from benchmarks.chaos.steadiness import FEWEST_MINUTES
from benchmarks.chaos.verdict import Seen, passed, verdict
from mesh_wire.process import say_error

FAILED, CANNOT, INTERRUPTED = 1, 3, 130
NETEM = ("reorder",)


async def chaos(minutes: float, seed: int, kinds: list[str], rate: float, seen: Seen, logs: Path | None) -> None:
    """Break all kinds of things for so long."""
    load = ["--rate", str(rate)]
    async with mesh_under_load(seed, seen, PROFILE, load, logs) as run:
        faults = plan(seed, 60 * minutes, GROUPS, kinds)
        can = [fault for fault in faults if run.mesh.network.netem or fault.kind not in NETEM]
        run.say(f"{len(can)} faults")
        await run.carry_out(can)
        await asyncio.sleep(max(0.0, run.began + 60 * minutes - asyncio.get_running_loop().time()))
        await run.stop()
        run.say(f"{len(can) - run.skipped} faults, {run.skipped} left out")


async def scenario(name: str, seed: int, minutes: float, seen: Seen, logs: Path | None) -> None:
    one = SCENARIOS[name]
    async with mesh_under_load(seed, seen, one.profile, one.load, logs) as run:
        await play(one, run, minutes)


def kinds_of(only: str) -> list[str]:
    """Return the kinds that are meant by names with commas between; the beginning of a name will do."""
    wishes = [wish.strip() for wish in only.split(",") if wish.strip()] or [""]
    for wish in wishes:
        if not any(kind.startswith(wish) for kind in KINDS):
            raise typer.BadParameter(f"{wish!r}: one of {', '.join(KINDS)}")
    return [kind for kind in KINDS if any(kind.startswith(wish) for wish in wishes)]


def command(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long; of scenarios, for soak alone.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Of the faults and the questions; absent: a new one.")] = None,
    only: Annotated[str, typer.Option(help="Kinds of faults, such as kill,stop,dns.")] = "",
    name: Annotated[
        str,
        typer.Option(
            "--scenario",
            help=f"One fault, for its figure: {', '.join(SCENARIOS)}; soak has none, and judges each process's memory "
            f"after a quarter of its life, where that leaves {FEWEST_MINUTES} minutes or more.",
        ),
    ] = "",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 15.0,
    logs: Annotated[Path | None, typer.Option(help="Keep the processes' logs in this folder.")] = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="Print the faults and end.")] = False,
) -> None:
    """Break a mesh in network namespaces, and check every answer."""
    kinds = kinds_of(only)
    if name and name not in SCENARIOS:
        raise typer.BadParameter(f"{name!r}: one of {', '.join(SCENARIOS)}", param_hint="--scenario")
    seed = random.SystemRandom().randrange(1 << 24) if seed is None else seed
    if show_plan:
        for fault in plan(seed, 60 * minutes, GROUPS, kinds):
            print(f"{fault.at_s:7.1f} s  {fault.words}")
        return
    steady = bool(name) and SCENARIOS[name].steady
    about = ", ".join(
        ([SCENARIOS[name].words] if name else []) + ([f"{minutes:g} minutes"] if not name or steady else [])
    )
    print(f"chaos: {about}; seed {seed}; load {os.getloadavg()[0]:.1f}", flush=True)
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    code = _run(scenario(name, seed, minutes, seen, logs) if name else chaos(minutes, seed, kinds, rate, seen, logs))
    if code:
        raise typer.Exit(code)
    if logs is not None:
        (logs / "memory.json").write_text(json.dumps(seen.memory), encoding="utf-8")
    lines = verdict(seen, SCENARIOS[name].gap_s if name else None, steady=steady)
    for line in lines:
        print({True: "  ok   ", False: "  FAIL ", None: "       "}[line.good] + line.words)
    for row in [row for row in seen.rows if row["words"]][:20]:
        print(f"       {row['outcome']} by {row['over']} at {row['began_s']:.1f} s: {row['words']}")
    good = passed(lines)
    words = [f"--scenario {name}"] if name else []
    words += [f"--minutes {minutes:g}"] if not name or steady else []
    words += [f"--only {only}"] if only and not name else []
    again = " ".join(words)
    print(f"chaos: {'passed' if good else 'FAILED'}; again: python -m benchmarks.chaos {again} --seed {seed}")
    raise typer.Exit(0 if good else FAILED)


def _run(work: Coroutine[Any, Any, None]) -> int:
    """Run to the end; SIGTERM ends it as Ctrl-C does. Returns the exit code, 0 where there is something to judge."""

    async def until_told() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(until_told())
    except CannotRun as error:
        print(f"chaos: skipped, this machine cannot run it: {error}", flush=True)
        return CANNOT
    except (NotUp, TimeoutError) as error:
        say_error(str(error) or "it did not end in time")
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("chaos: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    typer.run(command)
