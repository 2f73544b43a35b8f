"""HTTP/2 as no honest client speaks it. After each attack others are served, memory is bounded and nothing is left.

The server is a process of its own, so that its memory can be read; every attack meets the same one.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.hostile_http2.attacks import ATTACKS
from benchmarks.hostile_http2.wire import Pace
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.serving import open_channel
from support.asking import greedy
from support.calls import whole
from support.waiting import eventually
from support.workers import Supervised, supervised

ROOM_MB = 250  # that an attack may take while it lasts, and that Python may keep of it


class Server:
    """The server under attack."""

    def __init__(self, process: Supervised) -> None:
        self._process = process
        found = re.search(r"on port (\d+)", process.said)
        assert found
        self.port = int(found[1])

    @property
    def said(self) -> str:
        return self._process.said

    def memory_mb(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self._process.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    def connections(self) -> int:
        """Open sockets, its own that listens included."""
        found = 0
        for link in Path(f"/proc/{self._process.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in this very moment
                found += "socket" in str(link.readlink())
        return found

    async def serves(self) -> None:
        """Ask as an honest caller would, on a connection of its own."""
        async with open_channel(f"127.0.0.1:{self.port}") as channel:
            answer = await whole(InferenceServiceStub(channel).Generate(greedy(max_new_tokens=5), timeout=60))
            assert len(answer.token_ids) == 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@asynccontextmanager
async def attacked(folder: Path) -> AsyncIterator[Server]:
    """A server, and afterwards a look at what the attack has left of it."""
    config = folder / "mesh.yaml"
    expert = {
        "name": "target",
        "listen": "127.0.0.1:0",
        "serves": {"general": None},
        # More places than an attack takes: a full house would refuse an honest caller, and rightly.
        "simulated": {"step_base_s": 0.001, "slots": 256},
        "max_in_flight": 200,
    }
    config.write_text(json.dumps({"router": {"listen": "127.0.0.1:0", "strategy": "round_robin"}, "experts": [expert]}))
    async with supervised(folder, "-m", "expert_svc", "--config", str(config), "--name", "target") as process:
        await eventually(lambda: process.count("on port"), within_s=60)
        server = Server(process)
        await server.serves()
        memory_mb, connections = server.memory_mb(), server.connections()
        yield server
        await server.serves()
        assert server.memory_mb() - memory_mb < ROOM_MB
        await eventually(lambda: server.connections() <= connections)
        assert "Traceback" not in server.said


@pytest.mark.parametrize("attack", ATTACKS)
async def test_others_are_served_under_attack_and_nothing_of_it_is_left(folder: Path, attack: str) -> None:
    async with attacked(folder) as server, ATTACKS[attack].block(server.port, Pace()):
        await server.serves()
