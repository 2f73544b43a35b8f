"""HTTP/2 as no honest client speaks it. After each attack others are served, memory is bounded and nothing is left.

The server is a process of its own, so that its memory can be read; every attack meets the same one.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.serving import open_channel
from support.asking import greedy
from support.calls import whole
from support.waiting import eventually
from support.workers import Supervised, supervised

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GENERATE = "/expertmesh.v1.InferenceService/Generate"
ROOM_MB = 250  # that an attack may take while it lasts, and that Python may keep of it
MANY = 100_000


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


class Wire:
    """A connection, written to byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer
        self._encoder = Encoder()

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames; once the server has hung up, nothing."""
        with suppress(ConnectionError):
            self._writer.write(b"".join(one if isinstance(one, bytes) else one.serialize() for one in frames))
            await self._writer.drain()

    def begin(self, stream: int, *, flags: tuple[str, ...] = ("END_HEADERS",), **more: str) -> HeadersFrame:
        """The headers of a call."""
        usual = {":method": "POST", ":scheme": "http", ":path": GENERATE, ":authority": "m", "te": "trailers"}
        headers = {**usual, "content-type": "application/grpc", **more}
        return HeadersFrame(stream, self._encoder.encode(headers.items()), flags=flags)

    def asks(self, stream: int, tokens: int) -> tuple[Frame, Frame]:
        """A whole call."""
        body = greedy(max_new_tokens=tokens).SerializeToString()
        data = bytes(1) + len(body).to_bytes(4, "big") + body
        return self.begin(stream), DataFrame(stream, data, flags=["END_STREAM"])

    async def hung_up(self) -> None:
        """Read until the server closes."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def wire(server: Server, *, settings: dict[int, int] | None = None) -> AsyncIterator[Wire]:
    """Connect and greet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    connection = Wire(reader, writer)
    await connection.send(PREFACE, SettingsFrame(settings=settings or {}))
    try:
        yield connection
    finally:
        connection.close()


async def test_broken_frames(folder: Path) -> None:
    draw = random.Random(7)
    async with attacked(folder) as server:
        for _ in range(150):
            async with wire(server) as connection:
                honest = b"".join(frame.serialize() for frame in connection.asks(1, 3))
                broken = bytearray(honest)
                for _ in range(draw.randrange(1, 5)):
                    broken[draw.randrange(len(broken))] = draw.randrange(256)
                await connection.send(bytes(broken), draw.randbytes(draw.randrange(40)))


async def test_rapid_resets(folder: Path) -> None:
    async with attacked(folder) as server, wire(server) as connection:
        for first in range(1, 2 * 10_000, 2 * 500):
            frames: list[Frame] = []
            for stream in range(first, first + 2 * 500, 2):
                frames += [*connection.asks(stream, 50), RstStreamFrame(stream, error_code=8)]
            await connection.send(*frames)
        await server.serves()


async def test_headers_that_never_end(folder: Path) -> None:
    async with attacked(folder) as server, wire(server) as connection:
        await connection.send(connection.begin(1, flags=()))
        junk = Encoder().encode([("x", "y" * 4000)])
        for _ in range(2_000):
            await connection.send(*(ContinuationFrame(1, junk) for _ in range(10)))
        await server.serves()


async def test_huge_metadata(folder: Path) -> None:
    block = Encoder().encode([(f"x-{n}", "y" * 8000) for n in range(40)])
    parts = [ContinuationFrame(1, block[at : at + 16_000]) for at in range(0, len(block), 16_000)]
    parts[-1].flags.add("END_HEADERS")
    async with attacked(folder) as server:
        for _ in range(20):
            async with wire(server) as connection:
                await connection.send(connection.begin(1, flags=()), *parts)
        await server.serves()


async def test_answers_that_nobody_reads(folder: Path) -> None:
    async with attacked(folder) as server, AsyncExitStack() as life:
        connections = [await life.enter_async_context(wire(server)) for _ in range(4)]
        for connection in connections:
            for stream in range(1, 2 * 40, 2):
                await connection.send(*connection.asks(stream, 400))
        await server.serves()


async def test_windows_of_nothing(folder: Path) -> None:
    nothing = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
    async with attacked(folder) as server, wire(server, settings=nothing) as connection:
        for stream in range(1, 2 * 100, 2):
            await connection.send(*connection.asks(stream, 200))
        await server.serves()
        await connection.send(*(WindowUpdateFrame(1, window_increment=1) for _ in range(2_000)))


async def test_a_hundred_thousand_streams(folder: Path) -> None:
    async with attacked(folder) as server, wire(server) as connection:
        reading = asyncio.create_task(connection.hung_up())
        for first in range(1, 2 * MANY, 2 * 1000):
            await connection.send(*(connection.begin(stream) for stream in range(first, first + 2 * 1000, 2)))
        await server.serves()
        reading.cancel()


async def test_floods_of_pings_and_settings(folder: Path) -> None:
    async with attacked(folder) as server, wire(server) as connection:
        reading = asyncio.create_task(connection.hung_up())
        for _ in range(100):
            await connection.send(*(PingFrame(opaque_data=b"12345678") for _ in range(100)))
            await connection.send(*(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1}) for _ in range(100)))
        await server.serves()
        reading.cancel()


async def test_callers_that_do_not_finish_to_say_hello(folder: Path) -> None:
    async with attacked(folder) as server, AsyncExitStack() as life:
        for _ in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            life.callback(writer.close)
            writer.write(PREFACE[:7])
        await server.serves()
