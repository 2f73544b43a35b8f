"""Where answers go: what the reader has not taken yet gathers here, and deltas merge.

Putting never waits, so one slow reader delays nobody. What gathers for one request is bounded by the length of its
answer. A message leaves whenever the writer is free, with all that has gathered; there are no timers.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateResponse, RouteChosen, TokenLogprobs


class Outlet(Protocol):
    """Takes the events of one answer, in the order of the contract. No method waits."""

    @property
    def tally(self) -> "Tally":
        """What has passed."""

    def route(self, chosen: RouteChosen) -> None:
        """Take the route."""

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        """Take more of the answer. The ids are not changed, and not copied before they leave."""

    def finished(self, finished: Finished) -> None:
        """Take the end."""


class Bell:
    """Wakes one waiting writer; rings before the wait are remembered."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def rung(self) -> None:
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._rung = False


class _Gathered:
    """Text and tokens of one request that nobody has taken yet."""

    __slots__ = ("_merged", "logprobs", "texts", "token_ids")

    def __init__(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self.texts = [text]
        self.token_ids = token_ids
        self._merged: list[int] | None = None
        self.logprobs = list(logprobs) if logprobs else []

    def merge(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self.texts.append(text)
        if self._merged is None:
            self._merged = self.token_ids = list(self.token_ids)  # the first was the giver's
        self._merged.extend(token_ids)
        if logprobs:
            self.logprobs.extend(logprobs)


class Tally:
    """What has passed an outlet: tokens, and when the first and the end came, in seconds of `time.monotonic`."""

    __slots__ = ("ended_at", "first_at", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.first_at: float | None = None
        self.ended_at: float | None = None

    def count(self, tokens: int) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.tokens += tokens

    def end(self) -> None:
        self.ended_at = time.monotonic()


class StreamOutlet:
    """The outlet of one `Generate` call."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.merges = 0  # deltas that left in another's message
        self._bell = Bell()
        self._route: RouteChosen | None = None
        self._gathered: _Gathered | None = None
        self._finished: Finished | None = None
        self._closed = False

    def route(self, chosen: RouteChosen) -> None:
        self._route = chosen
        self._bell.ring()

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        self.tally.count(len(token_ids))
        if self._gathered is None:
            self._gathered = _Gathered(text, token_ids, logprobs)
            self._bell.ring()
        else:
            self.merges += 1
            self._gathered.merge(text, token_ids, logprobs)

    def finished(self, finished: Finished) -> None:
        self.tally.end()
        self._finished = finished
        self._bell.ring()

    def close(self) -> None:
        """End `messages` once all that was put has been taken."""
        self._closed = True
        self._bell.ring()

    async def messages(self) -> AsyncGenerator[GenerateResponse, None]:
        """Yield the events until `close`."""
        while True:
            if self._route is not None:
                chosen, self._route = self._route, None
                yield GenerateResponse(route=chosen)
            elif self._gathered is not None:
                new, self._gathered = self._gathered, None
                yield GenerateResponse(
                    delta=Delta(text="".join(new.texts), token_ids=new.token_ids, logprobs=new.logprobs)
                )
            elif self._finished is not None:
                finished, self._finished = self._finished, None
                yield GenerateResponse(finished=finished)
            elif self._closed:
                return
            else:
                await self._bell.rung()
