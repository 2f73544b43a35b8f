"""What this machine takes for work of the same kind as ours, at the same time: the unit of every cost.

`python -m benchmarks.overhead.reference` sleeps and wakes as a hop does between two steps of an engine. In each step it
sends messages over sockets, takes them apart and answers them: protobuf, sockets, event loop and Python, with nothing
of the project in it, so that no change of ours moves it; what makes the machine slower or faster, such as a busy
neighbour or a core that falls asleep, moves it as it moves us.

Each line on standard input is answered by a line of JSON: steps so far, and CPU seconds so far.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

ROOT = Path(__file__).resolve().parents[2]
STEP_S = 0.02
CALLS = 16
FIELDS = 8  # of a message


class _Far(asyncio.Protocol):
    """Takes a message apart, and answers with one that it put together."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        message = Struct.FromString(data)
        for name, value in message.fields.items():
            self._texts[name] = self._texts.get(name, "")[-20:] + value.string_value
        answer = Struct()
        answer.update(self._texts)
        self._transport.write(answer.SerializeToString())


async def _steps(counted: list[int]) -> None:
    """Step for ever; a step that is late is not made up for."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CALLS)]
    while True:
        due = loop.time() + STEP_S
        await asyncio.gather(*(_one(reader, writer, counted[0]) for reader, writer in lines))
        counted[0] += 1
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int) -> None:
    message = Struct()
    message.update({f"field-{number}": f" t{step % 1000:03d}" for number in range(FIELDS)})
    writer.write(message.SerializeToString())
    Struct.FromString(await reader.read(65536))


async def _main() -> None:
    counted = [0]
    stepping = asyncio.create_task(_steps(counted))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline() and not stepping.done():
        print(json.dumps([counted[0], time.process_time()]), flush=True)
    stepping.cancel()


class Reference:
    """The running process. Made by `running_reference`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def so_far(self) -> tuple[int, float]:
        """Return its steps and its CPU in seconds so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        steps, cpu_s = json.loads(await self._process.stdout.readline())
        return steps, cpu_s


@asynccontextmanager
async def running_reference() -> AsyncIterator[Reference]:
    """Run the reference as a process, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.overhead.reference"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        reference = Reference(process)
        await reference.so_far()
        yield reference
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
