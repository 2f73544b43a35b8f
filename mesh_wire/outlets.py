"""Where answers go: what the reader has not taken yet gathers here, and deltas merge.

Putting never waits, so one slow reader delays nobody. What gathers for one request is bounded by the length of its
answer. A message leaves whenever the writer is free, with all that has gathered, up to a size; there are no timers.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from expertmesh.v1.generation_pb2 import Finished, GenerateResponse, RouteChosen, TokenLogprobs

# What has gathered leaves in messages of about this size. gRPC's clients refuse more than 4 MB unless told otherwise,
# and a character may take four times what it is counted for.
LARGEST_BYTES = 1_000_000


def size_of(text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> int:
    """Return about how many bytes a delta has on the wire; cheap enough to be asked for every token."""
    size = len(text) + 4 * len(token_ids) + 8
    return size + sum(each.ByteSize() for each in logprobs) if logprobs else size


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

    __slots__ = ("_loop", "_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # found once: it takes Python a system call

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def rung(self) -> None:
        if not self._rung:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._rung = False


class _Gathered:
    """Text and tokens of one request that nobody has taken yet."""

    __slots__ = ("_merged", "_size", "logprobs", "texts", "token_ids")

    def __init__(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self.texts = [text]
        self.token_ids = token_ids
        self._merged: list[int] | None = None
        self._size = 0  # not known before the first merge
        self.logprobs = list(logprobs) if logprobs else []

    def merge(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> bool:
        """Take more; False where that would be too much for one message."""
        size = (self._size or size_of(self.texts[0], self.token_ids, self.logprobs)) + size_of(
            text, token_ids, logprobs
        )
        if size > LARGEST_BYTES:
            return False
        self._size = size
        self.texts.append(text)
        if self._merged is None:
            self._merged = self.token_ids = list(self.token_ids)  # the first was the giver's
        self._merged.extend(token_ids)
        if logprobs:
            self.logprobs.extend(logprobs)
        return True

    def message(self) -> GenerateResponse:
        message = GenerateResponse()
        delta = message.delta  # filled in its place: what is made elsewhere is copied here
        delta.text = "".join(self.texts)
        delta.token_ids.extend(self.token_ids)
        if self.logprobs:
            delta.logprobs.extend(self.logprobs)
        return message


class Tally:
    """What has passed an outlet: tokens, and when the first and the end came, in seconds of `time.monotonic`."""

    __slots__ = ("ended_at", "expert", "first_at", "tokens")

    def __init__(self) -> None:
        self.expert = ""  # who answers, once a service has found that it knows such an expert
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
        self._full: deque[_Gathered] = deque()  # what came before it, as much as a message holds in each
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
        elif self._gathered.merge(text, token_ids, logprobs):
            self.merges += 1
        else:
            self._full.append(self._gathered)
            self._gathered = _Gathered(text, token_ids, logprobs)

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
                if self._full:
                    new = self._full.popleft()
                else:
                    new, self._gathered = self._gathered, None
                yield new.message()
            elif self._finished is not None:
                finished, self._finished = self._finished, None
                yield GenerateResponse(finished=finished)
            elif self._closed:
                return
            else:
                await self._bell.rung()
