"""A TCP connection that a test can cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Cable:
    """Passes bytes on to a port, both ways, unless it is cut."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._cut = False
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._outer: set[asyncio.StreamWriter] = set()  # of them, those to whoever connected
        self._untold: set[asyncio.StreamWriter] = set()  # of them, those that are not closed with the other end

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection without a word, and let no new one through."""
        self._cut = True
        for writer in self._writers | self._untold:
            writer.transport.abort()

    def swallow(self) -> None:
        """Pass nothing on any more, and keep every connection."""
        self._passes.clear()

    def forget(self) -> None:
        """Break every connection for whoever opened it; the other end is not told, and new ones pass."""
        self._untold |= self._writers - self._outer
        for writer in self._outer:
            writer.transport.abort()

    def mend(self) -> None:
        self._cut = False
        self._passes.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        both = {writer, inner_writer}
        self._writers |= both
        self._outer.add(writer)
        await asyncio.gather(self._pass_on(reader, inner_writer), self._pass_on(inner_reader, writer))
        self._writers -= both
        self._outer.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        if writer not in self._untold:
            writer.close()


@asynccontextmanager
async def cable(to_port: int) -> AsyncIterator[Cable]:
    """Lay a cable from a free port to `to_port`."""
    laid = Cable(to_port)
    server = await asyncio.start_server(laid._connected, "127.0.0.1", 0)
    laid.port = server.sockets[0].getsockname()[1]
    try:
        yield laid
    finally:
        server.close()
        laid.mend()
        laid.cut()
        await server.wait_closed()
