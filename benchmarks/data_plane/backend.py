"""The simulated engines that every way leads to: `python -m benchmarks.data_plane.backend ENGINES FILE`.

Each engine listens on its own port and speaks what an expert speaks: `Generate`, `Session`, `Describe`, `WatchLoad` and
health. It steps as a real engine does: one token for every answer at once, a `Session` getting one message per step, a
`Generate` call one message per token. Engines step in turn, spread evenly over the token interval. The first token of
an answer does not wait for a step, so that the time to it is that of the way alone. An interval of 0 means steps as
fast as the readers take them. Token i of an answer has the id i, so that readers see what is lost, doubled or out of
order.

The repository's own expert with its simulated engine is not used: measured on one core, it takes 72 µs of CPU per token
by `Generate` and 22 by `Session`; at 20,000 tokens/s the generator would be measured, not the middle. This takes 2.

Writes JSON to FILE: the ports, and the port of the controls. There, a line `{"interval_s": 0.05}` sets the token
interval of all engines and is answered, like `{}`, with the counts so far.
"""

import asyncio
import json
import sys
from pathlib import Path

from benchmarks.data_plane.calls import METHODS, Call, SessionCall, WatchCall
from benchmarks.data_plane.http2 import Connection, Sending
from expertmesh.v1.expert_pb2 import Load
from mesh_wire.process import run

LOAD_EVERY_S = 0.05  # as the expert's load board


class Engine:
    """Steps what has joined."""

    def __init__(self, name: str, phase: float) -> None:
        self.name = name
        self.watches: list[WatchCall] = []
        self.emitted = self.lost = 0
        self._phase = phase  # of the token interval, in [0, 1)
        self._calls: dict[Call, None] = {}
        self._interval_s = 0.05
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._spinning = False

    @property
    def open(self) -> int:
        return sum(len(call.rows) if isinstance(call, SessionCall) else 1 for call in self._calls)

    def load(self) -> Load:
        return Load(running=self.open, kv_cache_use=self.emitted % 10_000 / 10_000)  # changes as a real one does

    def join(self, call: Call) -> None:
        self._calls[call] = None
        self.changed()

    def leave(self, call: Call) -> None:
        self._calls.pop(call, None)
        if call in self.watches:
            self.watches.remove(call)

    def changed(self) -> None:
        """Go on, where steps follow each other without pause and had run out of work."""
        if not self._interval_s and not self._spinning:
            self._spinning = True
            asyncio.get_running_loop().call_soon(self._spin)

    def pace(self, interval_s: float, epoch: float) -> None:
        """Step every `interval_s` seconds from now on, in phase with the loop's time `epoch`."""
        if self._timer is not None:
            self._timer.cancel()
        self._interval_s = interval_s
        if interval_s:
            self._due = epoch + (1 + self._phase) * interval_s
            self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)
        else:
            self.changed()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() - self._due > self._interval_s:  # what is later than a step is lost
            self._due += self._interval_s
            self.lost += 1 if self._calls else 0
        self._due += self._interval_s
        self._timer = loop.call_at(self._due, self._tick)
        self._step([*self._calls])

    def _spin(self) -> None:
        free = [call for call in self._calls if not call.out.blocked]
        self._spinning = bool(self._step(free)) and not self._interval_s
        if self._spinning:
            asyncio.get_running_loop().call_soon(self._spin)

    def _step(self, calls: list[Call]) -> int:
        tokens = sum([call.step() for call in calls])
        self.emitted += tokens
        for connection in {call.out.connection for call in calls}:
            connection.flush()
        return tokens

    async def tell_load(self) -> None:
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            for watch in self.watches:
                watch.tell()
                watch.out.connection.flush()


class Served(Connection):
    """One caller's connection to an engine."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.calls: dict[int, Call] = {}

    def headers(self, stream_id: int, fields: dict[str, str], ended: bool) -> None:
        self.sending[stream_id] = out = Sending(self, stream_id)
        self.calls[stream_id] = METHODS[fields[":path"]](self._engine, out, self._forget)

    def _forget(self, stream_id: int) -> None:
        self.calls.pop(stream_id, None)

    def data(self, stream_id: int, data: bytes, ended: bool) -> None:
        if (call := self.calls.get(stream_id)) is not None:
            call.data(data)
            if ended:
                call.asked_all()

    def reset(self, stream_id: int) -> None:
        if (call := self.calls.get(stream_id)) is not None:
            call.left()

    def lost(self) -> None:
        for call in [*self.calls.values()]:
            call.left()

    def eased(self) -> None:
        self._engine.changed()


async def serve(count: int, where: Path) -> int:
    loop = asyncio.get_running_loop()
    engines = [Engine(f"replica-{at + 1}", at / count) for at in range(count)]
    servers = [await loop.create_server(lambda one=one: Served(one), "127.0.0.1", 0) for one in engines]  # type: ignore[misc]

    async def control(lines: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        while line := await lines.readline():
            if (interval_s := json.loads(line).get("interval_s")) is not None:
                epoch = loop.time()
                for engine in engines:
                    engine.pace(interval_s, epoch)
            counts = {key: sum(getattr(one, key) for one in engines) for key in ("emitted", "lost", "open")}
            answers.write(json.dumps(counts | {"sessions": sum(len(one._calls) for one in engines)}).encode() + b"\n")

    controls = await asyncio.start_server(control, "127.0.0.1", 0)
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    draft = where.with_suffix(".draft")
    draft.write_text(json.dumps({"ports": ports, "controls": controls.sockets[0].getsockname()[1]}))
    draft.rename(where)
    await asyncio.gather(*(engine.tell_load() for engine in engines))
    return 0


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), Path(sys.argv[2])))
