"""What is seen of a mesh while it is under load, beside what the load's own users see."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import percentile
from expertmesh.v1.generation_pb2 import Finished, Sampling
from expertmesh_client.aio import AsyncClient
from mesh_wire.deadlines import seconds
from mesh_wire.errors import MeshError

LOOK_EVERY_S, ASK_EVERY_S = 0.5, 0.4
STAGES = ("admit", "classify", "select", "forward", "queue", "prefill", "decode")  # of `StageTimings`
PROBE = "Which city is the capital of the country that lies north of the one with the most lakes?"


@dataclass
class Watch:
    """Looks at the fleet's load, and asks for two tokens again and again to learn the stages of an answer."""

    target: str
    routed: bool = True
    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*STAGES, "rest", "whole")})
    load: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)  # replica -> waiting, running, KV use
    probes_failed: int = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        async with AsyncClient(self.target) as client:
            await asyncio.gather(self._ask(client), *([self._look(client)] if self.routed else []))

    async def _look(self, client: AsyncClient) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                fleet = await client.experts(timeout_s=5)
            except MeshError:
                continue
            seen = {replica.name: replica.load for expert in fleet.experts for replica in expert.replicas}
            for name, load in seen.items():
                self.load.setdefault(name, []).append((load.waiting, load.running, load.kv_cache_use))

    async def _ask(self, client: AsyncClient) -> None:
        number = 0
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            number += 1
            began = time.monotonic()
            answer = client.generate(f"[{number}] {PROBE}", sampling=Sampling(max_new_tokens=2), timeout_s=300)
            try:
                async for _ in answer:
                    pass
            except MeshError:
                self.probes_failed += 1
                continue
            if answer.finished is not None:
                self._note(answer.finished, time.monotonic() - began)

    def _note(self, finished: Finished, whole_s: float) -> None:
        told = 0.0
        for name in STAGES:
            if finished.timings.HasField(name):
                took_s = seconds(getattr(finished.timings, name))
                self.stages[name].append(took_s)
                told += took_s
        self.stages["rest"].append(max(0.0, whole_s - told))
        self.stages["whole"].append(whole_s)

    def found(self) -> dict[str, Any]:
        """Return what was seen, as JSON's types: seconds of this machine's."""
        return {
            "stages_s": {name: _spread(values) for name, values in self.stages.items() if values},
            "probes_failed": self.probes_failed,
            "load": {name: _load(seen) for name, seen in sorted(self.load.items())},
        }


def _spread(values: list[float]) -> dict[str, float]:
    return {"count": len(values), **{f"p{share}": percentile(values, share / 100) for share in (50, 95, 99)}}


def _load(seen: Iterable[tuple[int, int, float]]) -> Mapping[str, float]:
    waiting, running, kv = zip(*seen, strict=True)
    return {
        "waiting_mean": sum(waiting) / len(waiting),
        "waiting_most": max(waiting),
        "running_mean": sum(running) / len(running),
        "kv_use_most": max(kv),
    }
