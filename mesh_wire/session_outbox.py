"""All that has gathered for the reader of one session: many answers, one message at a time, deltas as columns."""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate, chain, repeat

from expertmesh.v1.generation_pb2 import Finished, RouteChosen, TokenLogprobs
from expertmesh.v1.inference_pb2 import (
    DeltaColumns,
    RowLogprobs,
    SessionFailed,
    SessionFinished,
    SessionResponse,
    SessionRoute,
)
from mesh_wire.errors import MeshError, status_of
from mesh_wire.outlets import Bell, Tally


class SessionOutbox:
    """All that has gathered for the reader of one session."""

    def __init__(self) -> None:
        self.merges = 0  # deltas that left in another's row
        self._bell = Bell()
        self._routes: list[SessionRoute] = []
        self._columns = _Columns()
        self._finished: list[SessionFinished] = []
        self._failed: list[SessionFailed] = []
        self._closed = False

    def outlet(self, stream_id: int) -> "SessionOutlet":
        return SessionOutlet(self, stream_id)

    def failed(self, stream_id: int, error: MeshError) -> None:
        """End a stream with an error."""
        self._failed.append(SessionFailed(stream_id=stream_id, status=status_of(error)))
        self._bell.ring()

    def close(self) -> None:
        """End `messages` once all that was put has been taken."""
        self._closed = True
        self._bell.ring()

    async def messages(self) -> AsyncGenerator[SessionResponse, None]:
        """Yield what has gathered, whenever asked, until `close`."""
        while True:
            if self._routes or self._columns.rows or self._finished or self._failed:
                yield self._take()
            elif self._closed:
                return
            else:
                await self._bell.rung()

    def _take(self) -> SessionResponse:
        columns, self._columns = self._columns, _Columns()
        message = SessionResponse(routes=self._routes, finished=self._finished, failed=self._failed)
        self._routes, self._finished, self._failed = [], [], []
        if columns.rows:
            columns.write(message.deltas)
        return message


class _Columns:
    """Text and tokens of many requests that nobody has taken yet, a row for each."""

    __slots__ = ("logprobs", "rows", "texts", "token_ids")

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}  # stream id -> row
        self.texts: list[str | list[str]] = []  # a list where deltas have merged
        self.token_ids: list[Sequence[int]] = []  # a list of our own where deltas have merged
        self.logprobs: dict[int, list[TokenLogprobs]] = {}  # row -> its own, where asked for

    def merge(self, row: int, text: str, token_ids: Sequence[int]) -> None:
        before, ids = self.texts[row], self.token_ids[row]
        if isinstance(before, str):  # and the ids are the giver's
            self.texts[row] = [before, text]
            self.token_ids[row] = [*ids, *token_ids]
        else:
            assert isinstance(ids, list), "merged before"
            before.append(text)
            ids.extend(token_ids)

    def drop(self, stream_id: int) -> None:
        """Take a stream's row out."""
        if (gone := self.rows.pop(stream_id, None)) is None:
            return
        del self.texts[gone], self.token_ids[gone]
        self.rows = {stream: row - (row > gone) for stream, row in self.rows.items()}
        self.logprobs = {row - (row > gone): found for row, found in self.logprobs.items() if row != gone}

    def write(self, columns: DeltaColumns) -> None:
        columns.stream_ids.extend(self.rows)
        columns.texts.extend([text if isinstance(text, str) else "".join(text) for text in self.texts])
        columns.token_counts.extend([len(ids) for ids in self.token_ids])
        columns.token_ids.extend(chain.from_iterable(self.token_ids))
        if self.logprobs:
            columns.logprobs.extend([RowLogprobs(row=row, tokens=found) for row, found in self.logprobs.items()])


class SessionOutlet:
    """The outlet of one request of a session."""

    __slots__ = ("_box", "_closed", "_stream_id", "tally")

    def __init__(self, box: SessionOutbox, stream_id: int) -> None:
        self.tally = Tally()
        self._box = box
        self._stream_id = stream_id
        self._closed = False

    def close(self) -> None:
        """Forget what has gathered, and what may still come until the request's task is gone: nobody wants it."""
        box, stream_id = self._box, self._stream_id
        self._closed = True
        box._routes = [one for one in box._routes if one.stream_id != stream_id]
        box._columns.drop(stream_id)
        box._finished = [one for one in box._finished if one.stream_id != stream_id]

    def route(self, chosen: RouteChosen) -> None:
        if self._closed:
            return
        self._box._routes.append(SessionRoute(stream_id=self._stream_id, route=chosen))
        self._box._bell.ring()

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        if self._closed:
            return
        tally = self.tally
        if tally.first_at is None:
            tally.first_at = time.monotonic()
        tally.tokens += len(token_ids)
        box = self._box
        columns = box._columns
        row = columns.rows.get(self._stream_id)
        if row is None:
            row = columns.rows[self._stream_id] = len(columns.texts)
            columns.texts.append(text)
            columns.token_ids.append(token_ids)
            box._bell.ring()
        else:
            box.merges += 1
            columns.merge(row, text, token_ids)
        if logprobs:
            columns.logprobs.setdefault(row, []).extend(logprobs)

    def finished(self, finished: Finished) -> None:
        if self._closed:
            return
        self.tally.end()
        self._box._finished.append(SessionFinished(stream_id=self._stream_id, finished=finished))
        self._box._bell.ring()


def rows_of(columns: DeltaColumns) -> Iterator[tuple[int, str, list[int], Sequence[TokenLogprobs]]]:
    """Split columns into rows of stream id, text, token ids and log-probabilities.

    Raises:
        ValueError: the columns do not fit each other.
    """
    ids, texts, counts, tokens = columns.stream_ids, columns.texts, columns.token_counts, list(columns.token_ids)
    if not len(ids) == len(texts) == len(counts) or sum(counts) != len(tokens):
        raise ValueError("columns of different lengths")
    if len(tokens) == len(ids) and max(counts, default=1) == 1 and not columns.logprobs:  # the usual step of an engine
        return zip(ids, texts, ([token] for token in tokens), repeat(()))
    ends = list(accumulate(counts))
    slices = (tokens[end - count : end] for end, count in zip(ends, counts, strict=True))
    logprobs = {row.row: row.tokens for row in columns.logprobs}
    return zip(ids, texts, slices, (logprobs.get(at, ()) for at in range(len(ids))), strict=True)
