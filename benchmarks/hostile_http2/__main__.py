"""What honest callers notice of HTTP/2 attacks: p50 and p99 of one-token answers before and during each.

The attacks are those of `tests/wire/test_hostile_http2.py`, each at a rate that leaves the server's core some room: a
core that is full slows everybody down, whatever fills it. Server and honest callers share a core, the attacker has the
other. Each attack follows a quiet window, round by round; ratios are of windows side by side, medians over rounds.
Where others use our core, a pair of windows is taken again, and what they still had of it is told.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.data_plane.host import Child, cores, free_port, python
from benchmarks.hostile_http2.attacker import attacking
from benchmarks.hostile_http2.attacks import ATTACKS, Attack
from benchmarks.hostile_http2.callers import PER_S, Window, window
from benchmarks.report import median, show
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.process import run, say_error
from mesh_wire.serving import open_channel

ROUNDS = 3
WARM_UP_S = 3.0
AIM = 2.0  # times the quiet p99
TRIES, UNDISTURBED = 2, 0.15  # of a pair of windows; of a core
SETTLES_WITHIN_S = 60.0
IDLE, LOOK_S = 0.05, 0.5  # of a core: what the server uses when it has got over an attack

Pair = tuple[Window, Window]  # quiet, attacked


class Bench:
    """A server, honest callers, and attackers one after the other."""

    def __init__(self, server: Child, port: int, stub: InferenceServiceStub, placed: tuple[int, int]) -> None:
        """`placed` is the core of server and callers, and that of the attackers."""
        self._server, self._port, self._stub = server, port, stub
        self._ours, self._theirs = placed

    async def window(self, seconds: float) -> Window:
        return await window(self._stub, self._server, self._ours, seconds)

    async def least_disturbed(self, name: str, seconds: float) -> Pair:
        """Take a pair of windows in which nobody else has much of our core; of a few, the best."""
        pairs: list[Pair] = []
        while len(pairs) < TRIES:
            pairs.append(await self.pair(name, seconds))
            if disturbed(pairs[-1]) <= UNDISTURBED:
                break
        return min(pairs, key=disturbed)

    async def pair(self, name: str, seconds: float) -> Pair:
        """Take a quiet window, and one under attack."""
        quiet = await self.window(seconds)
        async with attacking(name, self._port, self._theirs) as attacker:
            if ATTACKS[name].stands:
                await self._settled()
            attacked = await self.window(seconds)
            if self._server.dead:
                raise RuntimeError(f"{name}: the server died:\n{self._server.log.read_text(errors='replace')[-2000:]}")
            if attacker.poll() is not None:
                raise RuntimeError(f"{name}: the attacker ended by itself")
        await self._settled()
        return quiet, attacked

    async def _settled(self) -> None:
        """Wait until the server has got over what came."""
        ends = time.monotonic() + SETTLES_WITHIN_S
        while time.monotonic() < ends:
            cpu_s, began = self._server.cpu_s(), time.monotonic()
            await asyncio.sleep(LOOK_S)
            if self._server.cpu_s() - cpu_s < IDLE * (time.monotonic() - began):
                return
        raise RuntimeError(f"the server is still busy {SETTLES_WITHIN_S:g} s after the attack")


async def measure(names: list[str], rounds: int, seconds: float) -> dict[str, list[Pair]]:
    """Return the windows of each attack, round by round."""
    ours, theirs = cores()
    os.sched_setaffinity(0, {ours})
    found: dict[str, list[Pair]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder, port = Path(place), free_port()
        (folder / "mesh.yaml").write_text(json.dumps(_mesh(port)), encoding="utf-8")
        command = python("expert_svc", "--config", str(folder / "mesh.yaml"), "--name", "target")
        server = Child(command, ours, folder / "server.log")
        try:
            await server.listening(port)
            async with open_channel(f"127.0.0.1:{port}") as channel:
                bench = Bench(server, port, InferenceServiceStub(channel), (ours, theirs))
                await bench.window(WARM_UP_S)
                for number in range(rounds):
                    for name in names:
                        quiet, attacked = await bench.least_disturbed(name, seconds)
                        found[name].append((quiet, attacked))
                        told = f"round {number + 1}, {name}: p99 {quiet.p99_ms:.3g} → {attacked.p99_ms:.3g} ms"
                        print(told, file=sys.stderr, flush=True)
        finally:
            server.kill()
    return found


def _mesh(port: int) -> dict[str, Any]:
    expert = {
        "name": "target",
        "listen": f"127.0.0.1:{port}",
        "serves": {"general": None},
        "simulated": {"step_base_s": 0.001, "slots": 1000},
        "max_in_flight": 1000,
    }
    return {"router": {"strategy": "round_robin"}, "experts": [expert]}


def disturbed(pair: Pair) -> float:
    """Return the larger share of our core that others had."""
    return max(one.others for one in pair)


def row_of(name: str, attack: Attack, pairs: list[Pair]) -> dict[str, Any]:
    """Put an attack's rounds into one row."""

    def ratio(figure: str) -> float:
        return median([getattr(attacked, figure) / getattr(quiet, figure) for quiet, attacked in pairs])

    quiet, attacked = [one for one, _ in pairs], [one for _, one in pairs]
    return {
        "attack": name.replace("_", " "),
        "rate": f"{attack.of} open" if attack.stands else f"{attack.per_s:,.0f} {attack.of}/s",
        "quiet_p50_ms": median([one.p50_ms for one in quiet]),
        "p50_ms": median([one.p50_ms for one in attacked]),
        "quiet_p99_ms": median([one.p99_ms for one in quiet]),
        "p99_ms": median([one.p99_ms for one in attacked]),
        "p50_times": ratio("p50_ms"),
        "p99_times": ratio("p99_ms"),
        "server_cpu": f"{median([one.cpu for one in quiet]):.0%} → {median([one.cpu for one in attacked]):.0%}",
        "others_cpu": f"{median([disturbed(pair) for pair in pairs]):.0%}",
        "failed": sum(one.failed for one in (*quiet, *attacked)),
    }


def command(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds over all attacks.")] = ROUNDS,
    seconds: Annotated[float, typer.Option(min=1, help="Of each window.")] = 5.0,
    only: Annotated[str, typer.Option(help=f"Attacks, with commas: {', '.join(ATTACKS)}.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what honest callers notice of attacks."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list(ATTACKS)
    if unknown := set(names) - ATTACKS.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: of {', '.join(ATTACKS)}", param_hint="--only")
    found: dict[str, list[Pair]] = {}
    ours, theirs = cores()

    async def measuring() -> int:
        found.update(await measure(names, rounds, seconds))
        return 0

    try:
        run(measuring())
    except (RuntimeError, TimeoutError) as error:
        say_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    rows = [row_of(name, ATTACKS[name], pairs) for name, pairs in found.items()]
    above = [row["attack"] for row in rows if row["p99_times"] > AIM]
    show(
        "honest callers under HTTP/2 attack",
        rows,
        as_json=as_json,
        load=f"{PER_S:g} one-token answers/s by Generate; {rounds} rounds of windows of {seconds:g} s, quiet and "
        f"attacked in turn; server and callers on core {ours}, attacker on core {theirs}",
        p99_above_aim=", ".join(above) or f"none: all within {AIM:g} times",
    )


if __name__ == "__main__":
    typer.run(command)
