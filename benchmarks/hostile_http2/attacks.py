"""The attacks. Each is a block: it attacks, lets the block run while what it has opened stays open, and closes."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from benchmarks.hostile_http2.wire import HOST, PREFACE, Pace, wire

MANY = 100_000
_CANCEL = 8


@asynccontextmanager
async def broken_frames(port: int, pace: Pace) -> AsyncIterator[None]:
    """150 connections, each with a call in which some bytes are wrong, and junk after it."""
    draw = random.Random(7)
    async for batch in pace.batches(150, 1):
        for _ in batch:
            async with wire(port) as connection:
                honest = b"".join(frame.serialize() for frame in connection.asks(1, 3))
                broken = bytearray(honest)
                for _ in range(draw.randrange(1, 5)):
                    broken[draw.randrange(len(broken))] = draw.randrange(256)
                await connection.send(bytes(broken), draw.randbytes(draw.randrange(40)))
    yield


@asynccontextmanager
async def rapid_resets(port: int, pace: Pace) -> AsyncIterator[None]:
    """10,000 calls, each taken back at once."""
    async with wire(port) as connection:
        async for batch in pace.batches(10_000, 500):
            frames: list[Frame] = []
            for number in batch:
                stream = 2 * number + 1
                frames += [*connection.asks(stream, 50), RstStreamFrame(stream, error_code=_CANCEL)]
            if not await connection.send(*frames):
                break
        yield


@asynccontextmanager
async def endless_headers(port: int, pace: Pace) -> AsyncIterator[None]:
    """Headers that 20,000 CONTINUATION frames of 3 kB do not end."""
    async with wire(port) as connection:
        await connection.send(connection.begin(1, flags=()))
        junk = Encoder().encode([("x", "y" * 4000)])
        async for batch in pace.batches(20_000, 10):
            if not await connection.send(*(ContinuationFrame(1, junk) for _ in batch)):
                break
        yield


@asynccontextmanager
async def huge_metadata(port: int, pace: Pace) -> AsyncIterator[None]:
    """20 calls with 320 kB of headers each."""
    block = Encoder().encode([(f"x-{n}", "y" * 8000) for n in range(40)])
    parts = [ContinuationFrame(1, block[at : at + 16_000]) for at in range(0, len(block), 16_000)]
    parts[-1].flags.add("END_HEADERS")
    async for batch in pace.batches(20, 1):
        for _ in batch:
            async with wire(port) as connection:
                await connection.send(connection.begin(1, flags=()), *parts)
    yield


@asynccontextmanager
async def unread_answers(port: int, pace: Pace) -> AsyncIterator[None]:
    """4 connections that ask for 40 long answers each, and read nothing."""
    async with AsyncExitStack() as life:
        connections = [await life.enter_async_context(wire(port)) for _ in range(4)]
        async for batch in pace.batches(160, 1):
            for number in batch:
                connection = connections[number // 40]
                await connection.send(*connection.asks(2 * (number % 40) + 1, 400))
        yield


@asynccontextmanager
async def windows_of_nothing(port: int, pace: Pace) -> AsyncIterator[None]:
    """100 calls that let nothing be sent to them, and then 2,000 bytes, one by one."""
    async with wire(port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as connection:
        async for batch in pace.batches(100, 1):
            for number in batch:
                await connection.send(*connection.asks(2 * number + 1, 200))
        async for batch in pace.batches(2_000, 2_000):
            await connection.send(*(WindowUpdateFrame(1, window_increment=1) for _ in batch))
        yield


@asynccontextmanager
async def many_streams(port: int, pace: Pace) -> AsyncIterator[None]:
    """100,000 calls on one connection that never say what they want."""
    async with wire(port, reads=True) as connection:
        await connection.send(connection.begin(1))
        known = connection.begin(3).data  # in the words of the table that both ends have from the first
        async for batch in pace.batches(MANY, 1000):
            frames = (HeadersFrame(2 * number + 3, known, flags=["END_HEADERS"]) for number in batch)
            if not await connection.send(*frames):
                break
        yield


@asynccontextmanager
async def pings_and_settings(port: int, pace: Pace) -> AsyncIterator[None]:
    """20,000 frames that each want a word back."""
    ping, setting = PingFrame(opaque_data=b"12345678"), SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1})
    async with wire(port, reads=True) as connection:
        async for batch in pace.batches(20_000, 200):
            if not await connection.send(*((ping, setting)[number % 2] for number in batch)):
                break
        yield


@asynccontextmanager
async def half_a_hello(port: int, pace: Pace) -> AsyncIterator[None]:
    """300 connections that do not finish to say hello."""
    async with AsyncExitStack() as life:
        async for batch in pace.batches(300, 1):
            for _ in batch:
                _, writer = await asyncio.open_connection(HOST, port)
                life.callback(writer.close)
                writer.write(PREFACE[:7])
        yield


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack, and how it is measured."""

    block: Callable[[int, Pace], AbstractAsyncContextManager[None]]
    per_s: float  # of its own kind, so that it does not only fill a core
    of: str  # its kind
    stands: bool = False  # it is there, rather than going on: its state is made first, and then held


ATTACKS = {
    attack.block.__name__: attack
    for attack in (
        Attack(broken_frames, 200, "connections"),
        Attack(rapid_resets, 1_000, "calls"),
        Attack(endless_headers, 5_000, "frames"),
        Attack(huge_metadata, 100, "calls"),
        Attack(unread_answers, 1_000, "calls", stands=True),
        Attack(windows_of_nothing, 1_000, "calls", stands=True),
        Attack(many_streams, 10_000, "calls", stands=True),
        Attack(pings_and_settings, 20_000, "frames"),
        Attack(half_a_hello, 1_000, "connections", stands=True),
    )
}
