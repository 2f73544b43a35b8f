"""Running something that takes a while until it is done, or until SIGINT or SIGTERM."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mesh_wire.process import terminated

Result = TypeVar("Result")


async def until_told(work: Coroutine[Any, Any, Result], on_stop: Callable[[], None] = lambda: None) -> Result | None:
    """Run `work`; returns its result, or None when a signal came first and `work` has cleaned up."""
    stop = asyncio.create_task(terminated())
    doing = asyncio.create_task(work)
    await asyncio.wait((stop, doing), return_when=asyncio.FIRST_COMPLETED)
    if stop.done() and not doing.done():
        on_stop()
        doing.cancel()
        await asyncio.wait((doing,))
        if doing.cancelled():
            return None
    stop.cancel()
    return await doing
