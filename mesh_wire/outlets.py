"""Where answers go: what the reader has not taken yet gathers here, and deltas merge.

Putting never waits, so one slow reader delays nobody. What gathers for one request is bounded by the length of its
answer. A message leaves whenever the writer is free, with all that has gathered; there are no timers.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateResponse, RouteChosen, TokenLogprobs
from expertmesh.v1.inference_pb2 import (
    DeltaColumns,
    RowLogprobs,
    SessionFailed,
    SessionFinished,
    SessionResponse,
    SessionRoute,
)
from mesh_wire.errors import MeshError, status_of


class Outlet(Protocol):
    """Takes the events of one answer, in the order of the contract. No method waits."""

    @property
    def tally(self) -> "Tally":
        """What has passed."""

    def route(self, chosen: RouteChosen) -> None:
        """Take the route."""

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        """Take more of the answer."""

    def finished(self, finished: Finished) -> None:
        """Take the end."""


class _Bell:
    """Wakes one waiting writer; rings before the wait are remembered."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
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

    __slots__ = ("logprobs", "texts", "token_ids")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []

    def add(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self.texts.append(text)
        self.token_ids.extend(token_ids)
        if logprobs:
            self.logprobs.extend(logprobs)


class Tally:
    """What has passed an outlet: tokens, and when the first and the last came, in seconds of `time.monotonic`."""

    __slots__ = ("first_at", "last_at", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.first_at: float | None = None
        self.last_at: float | None = None

    def count(self, tokens: int) -> None:
        self.last_at = time.monotonic()
        if self.first_at is None:
            self.first_at = self.last_at
        self.tokens += tokens


class StreamOutlet:
    """The outlet of one `Generate` call."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._bell = _Bell()
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
            self._gathered = _Gathered()
        self._gathered.add(text, token_ids, logprobs)
        self._bell.ring()

    def finished(self, finished: Finished) -> None:
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


class SessionOutbox:
    """All that has gathered for the reader of one session."""

    def __init__(self) -> None:
        self._bell = _Bell()
        self._routes: list[SessionRoute] = []
        self._gathered: dict[int, _Gathered] = {}
        self._finished: list[SessionFinished] = []
        self._failed: list[SessionFailed] = []
        self._closed = False

    def outlet(self, stream_id: int) -> "SessionOutlet":
        return SessionOutlet(self, stream_id)

    def failed(self, stream_id: int, error: MeshError) -> None:
        """End a stream with an error."""
        self._failed.append(SessionFailed(stream_id=stream_id, status=status_of(error)))
        self._bell.ring()

    def drop(self, stream_id: int) -> None:
        """Forget what has gathered for a stream that nobody wants any more."""
        self._gathered.pop(stream_id, None)

    def close(self) -> None:
        """End `messages` once all that was put has been taken."""
        self._closed = True
        self._bell.ring()

    async def messages(self) -> AsyncGenerator[SessionResponse, None]:
        """Yield what has gathered, whenever asked, until `close`."""
        while True:
            if self._routes or self._gathered or self._finished or self._failed:
                yield self._take()
            elif self._closed:
                return
            else:
                await self._bell.rung()

    def _take(self) -> SessionResponse:
        gathered, self._gathered = self._gathered, {}
        message = SessionResponse(routes=self._routes, finished=self._finished, failed=self._failed)
        self._routes, self._finished, self._failed = [], [], []
        if gathered:
            columns = message.deltas
            columns.stream_ids.extend(gathered)
            rows = list(gathered.values())
            columns.texts.extend(["".join(row.texts) for row in rows])
            columns.token_counts.extend([len(row.token_ids) for row in rows])
            columns.token_ids.extend([token for row in rows for token in row.token_ids])
            columns.logprobs.extend(
                [RowLogprobs(row=at, tokens=row.logprobs) for at, row in enumerate(rows) if row.logprobs]
            )
        return message


class SessionOutlet:
    """The outlet of one request of a session."""

    __slots__ = ("_box", "_stream_id", "tally")

    def __init__(self, box: SessionOutbox, stream_id: int) -> None:
        self.tally = Tally()
        self._box = box
        self._stream_id = stream_id

    def route(self, chosen: RouteChosen) -> None:
        self._box._routes.append(SessionRoute(stream_id=self._stream_id, route=chosen))
        self._box._bell.ring()

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        self.tally.count(len(token_ids))
        gathered = self._box._gathered.get(self._stream_id)
        if gathered is None:
            gathered = self._box._gathered[self._stream_id] = _Gathered()
        gathered.add(text, token_ids, logprobs)
        self._box._bell.ring()

    def finished(self, finished: Finished) -> None:
        self._box._finished.append(SessionFinished(stream_id=self._stream_id, finished=finished))
        self._box._bell.ring()


def rows_of(columns: DeltaColumns) -> list[tuple[int, str, list[int], Sequence[TokenLogprobs]]]:
    """Split columns into rows of stream id, text, token ids and log-probabilities.

    Raises:
        ValueError: the columns do not fit each other.
    """
    ids, texts, counts, tokens = columns.stream_ids, columns.texts, columns.token_counts, list(columns.token_ids)
    if not len(ids) == len(texts) == len(counts) or sum(counts) != len(tokens):
        raise ValueError("columns of different lengths")
    logprobs = {row.row: row.tokens for row in columns.logprobs} if columns.logprobs else {}
    rows: list[tuple[int, str, list[int], Sequence[TokenLogprobs]]] = []
    start = 0
    for at, (stream_id, text, count) in enumerate(zip(ids, texts, counts, strict=True)):
        rows.append((stream_id, text, tokens[start : start + count], logprobs.get(at, ())))
        start += count
    return rows
