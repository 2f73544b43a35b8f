"""The thread in which expensive strategies run: one batch at a time, of whatever prompts wait, within a time budget."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.stages import Staged

MOST_AT_ONCE = 4  # prompts of one batch: each waits for all
RECENT = 0.3  # how much the newest batch counts in the estimate of what a prompt costs

Row = NDArray[np.float32]


@dataclass(slots=True)
class _Waiting:
    stages: Staged
    text: str
    draft: Row
    done: asyncio.Future[Row]  # cancelled by whoever no longer waits


class Thinking:
    """Finishes drafts off the event loop. Belongs to one loop; its thread starts with the first prompt.

    The thread is a daemon: one that is stuck in foreign code holds neither a request nor the process's end.
    """

    def __init__(self, budget_s: float) -> None:
        """Args:
        budget_s: what a prompt can wait; one that would have to wait longer is turned away at once.
        """
        self.budget_s = budget_s
        self._waiting: deque[_Waiting] = deque()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._began: float | None = None  # when the batch began that runs; None: none does
        self._each_s = 0.0  # estimate of what a prompt costs
        self._closing = False

    @property
    def overdue(self) -> bool:
        """Whether a prompt that came now would have to wait longer than the budget.

        While nothing runs, none is: an estimate that was too high must be given the chance to fall.
        """
        if self._began is None:
            return False
        running_s = time.monotonic() - self._began
        return running_s > self.budget_s or (len(self._waiting) + 1) * self._each_s > self.budget_s

    def finish(self, stages: Staged, text: str, draft: Row) -> asyncio.Future[Row]:
        """Have a prompt finished. The future ends with its row or the strategy's exception; cancel it to leave."""
        done: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(stages, text, draft, done))
        if self._began is None:
            self._next()
        return done

    def close(self) -> None:
        """End the thread as soon as nobody waits any more."""
        self._closing = True
        if self._began is None:
            self._end()

    def _next(self) -> None:
        """Start a batch of what waits for one strategy, as far as half the budget allows."""
        room = MOST_AT_ONCE if self._each_s == 0 else int(self.budget_s / 2 / self._each_s)
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < min(MOST_AT_ONCE, max(1, room)):
            if batch and self._waiting[0].stages is not batch[0].stages:
                break
            one = self._waiting.popleft()
            if not one.done.done():
                batch.append(one)
        if not batch:
            if self._closing:
                self._end()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=_work_off, args=(self._work,), name="thinking", daemon=True)
            self._thread.start()
        self._began = time.monotonic()
        loop = asyncio.get_running_loop()
        stages = batch[0].stages
        texts, drafts = [one.text for one in batch], np.stack([one.draft for one in batch])

        def think() -> None:
            rows: Row | Exception
            try:
                rows = stages.finish(texts, drafts)
                if rows.shape != drafts.shape or not np.isfinite(rows).all():
                    rows = ValueError(f"strategy {stages.name} returned scores that are none")
            except Exception as error:  # the strategy's own; each of its prompts is told
                rows = error
            try:
                loop.call_soon_threadsafe(self._finished, batch, rows)
            except RuntimeError:  # the loop is closed: nobody waits
                return

        self._work.put(think)

    def _end(self) -> None:
        if self._thread is not None:
            self._work.put(None)
            self._thread = None  # who was under way when this was closed gets a new one

    def _finished(self, batch: list[_Waiting], rows: Row | Exception) -> None:
        assert self._began is not None, "a batch ends that has begun"
        each_s = (time.monotonic() - self._began) / len(batch)
        self._each_s += (each_s - self._each_s) * (RECENT if self._each_s else 1.0)
        self._began = None
        for at, one in enumerate(batch):
            if one.done.done():
                continue
            if isinstance(rows, Exception):
                one.done.set_exception(rows)
            else:
                one.done.set_result(rows[at])
        self._next()


def _work_off(work: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (task := work.get()) is not None:
        task()
