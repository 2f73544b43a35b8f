"""An event loop for code that has none."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """An event loop that runs in a thread of its own. A daemon, so that a forgotten client never holds up an exit."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="expertmesh-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._ending

    def start(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run `work` there."""
        if not self.alive:
            work.close()
            raise RuntimeError("the client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` there and wait for it. Interrupted, by Ctrl-C, it is cancelled."""
        done = self.start(work)
        try:
            return done.result()
        except BaseException:
            done.cancel()
            raise

    def end(self) -> None:
        self._ending = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
