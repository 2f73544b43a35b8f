"""Waiting for what must become true, in tests."""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable


async def eventually(condition: Callable[[], object], within_s: float = 20) -> None:
    """Return as soon as `condition()`, awaited where it needs to be, is true; fail when it is not in `within_s`."""
    until = time.monotonic() + within_s
    while True:
        holds = condition()
        if await holds if isawaitable(holds) else holds:
            return
        assert time.monotonic() < until, f"still not true after {within_s:g} s"
        await asyncio.sleep(0.002)
