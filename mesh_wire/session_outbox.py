"""All that has gathered for the reader of one session: many answers, one message at a time, deltas as columns."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any

from expertmesh.v1.generation_pb2 import Finished, RouteChosen, TokenLogprobs
from expertmesh.v1.inference_pb2 import DeltaColumns, RowLogprobs, SessionResponse
from mesh_wire.errors import MeshError, status_of
from mesh_wire.outlets import LARGEST_BYTES, Bell, Tally, size_of

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


class SessionOutbox:
    """All that has gathered for the reader of one session."""

    def __init__(self) -> None:
        self.merges = 0  # deltas that left in another's row
        self._bell = Bell()
        self._gathering = _Gathering()
        self._full: deque[_Gathering] = deque()  # what came before it, as much as a message holds in each
        self._closed = False

    def outlet(self, stream_id: int) -> "SessionOutlet":
        return SessionOutlet(self, stream_id)

    def failed(self, stream_id: int, error: MeshError) -> None:
        """End a stream with an error."""
        status = status_of(error)
        gathering = self._room(status.ByteSize())
        gathering.has_events = True
        failed = gathering.events.failed.add()
        failed.stream_id = stream_id
        failed.status.CopyFrom(status)
        self._bell.ring()

    def close(self) -> None:
        """End `messages` once all that was put has been taken."""
        self._closed = True
        self._bell.ring()

    async def messages(self) -> AsyncGenerator[SessionResponse, None]:
        """Yield what has gathered, whenever asked, until `close`."""
        while True:
            if self._full or self._gathering:
                yield self._take()
            elif self._closed:
                return
            else:
                await self._bell.rung()

    def _take(self) -> SessionResponse:
        if self._full:
            return self._full.popleft().message()
        taken, self._gathering = self._gathering, _Gathering()
        return taken.message()

    def _room(self, size: int) -> "_Gathering":
        """Return where something of about `size` bytes goes: all that was put before it leaves before, or with it."""
        gathering = self._gathering
        if gathering.size + size > LARGEST_BYTES and gathering:
            self._full.append(gathering)
            gathering = self._gathering = _Gathering()
        gathering.size += size
        return gathering

    def _forget(self, stream_id: int) -> None:
        for gathering in (*self._full, self._gathering):
            gathering.drop(stream_id)
        self._full = deque(gathering for gathering in self._full if gathering)


class _Gathering:
    """What becomes one message: text and tokens of many requests, a row for each; and their beginnings and ends."""

    __slots__ = ("events", "has_events", "has_merged", "logprobs", "rows", "size", "texts", "token_ids")

    def __init__(self) -> None:
        self.size = 0  # about how many bytes it has on the wire
        self.events = SessionResponse()  # filled in its place: what is made elsewhere is copied here
        self.has_events = False  # routes or ends
        self.has_merged = False
        self.rows: dict[int, int] = {}  # stream id -> row
        self.texts: list[str | list[str]] = []  # a list where deltas have merged
        self.token_ids: list[Sequence[int]] = []  # a list of our own where deltas have merged
        self.logprobs: dict[int, list[TokenLogprobs]] = {}  # row -> its own, where asked for

    def __bool__(self) -> bool:
        return self.has_events or bool(self.rows)

    def merge(self, row: int, text: str, token_ids: Sequence[int]) -> None:
        self.has_merged = True
        before, ids = self.texts[row], self.token_ids[row]
        if isinstance(before, str):  # and the ids are the giver's
            self.texts[row] = [before, text]
            self.token_ids[row] = [*ids, *token_ids]
        else:
            assert isinstance(ids, list), "merged before"
            before.append(text)
            ids.extend(token_ids)

    def drop(self, stream_id: int) -> None:
        """Take out all of a stream but its failure."""
        events = self.events
        _drop(events.routes, stream_id)
        _drop(events.finished, stream_id)
        self.has_events = bool(events.routes or events.finished or events.failed)
        if (gone := self.rows.pop(stream_id, None)) is None:
            return
        del self.texts[gone], self.token_ids[gone]
        self.rows = {stream: row - (row > gone) for stream, row in self.rows.items()}
        self.logprobs = {row - (row > gone): found for row, found in self.logprobs.items() if row != gone}

    def message(self) -> SessionResponse:
        if self.rows:
            self._write(self.events.deltas)
        return self.events

    def _write(self, columns: DeltaColumns) -> None:
        columns.stream_ids.extend(self.rows)
        texts: list[Any] = self.texts
        if self.has_merged:
            texts = [text if isinstance(text, str) else "".join(text) for text in texts]
        columns.texts.extend(texts)
        columns.token_counts.extend([len(ids) for ids in self.token_ids])
        columns.token_ids.extend(chain.from_iterable(self.token_ids))
        if self.logprobs:
            columns.logprobs.extend([RowLogprobs(row=row, tokens=found) for row, found in self.logprobs.items()])


def _drop(told: "RepeatedCompositeFieldContainer[Any]", stream_id: int) -> None:
    for at in reversed([at for at, one in enumerate(told) if one.stream_id == stream_id]):
        del told[at]


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
        self._closed = True
        self._box._forget(self._stream_id)

    def route(self, chosen: RouteChosen) -> None:
        if self._closed:
            return
        gathering = self._box._room(chosen.ByteSize())
        gathering.has_events = True
        told = gathering.events.routes.add()
        told.stream_id = self._stream_id
        told.route.CopyFrom(chosen)
        self._box._bell.ring()

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        if self._closed:
            return
        tally = self.tally
        if tally.first_at is None:
            tally.first_at = time.monotonic()
        tally.tokens += len(token_ids)
        box = self._box
        size = size_of(text, token_ids, logprobs) if logprobs else len(text) + 4 * len(token_ids) + 8
        gathering = box._gathering
        if gathering.size + size > LARGEST_BYTES:
            gathering = box._room(size)
        else:  # the usual case, for every token: without a call
            gathering.size += size
        row = gathering.rows.get(self._stream_id)
        if row is None:
            row = gathering.rows[self._stream_id] = len(gathering.texts)
            gathering.texts.append(text)
            gathering.token_ids.append(token_ids)
            box._bell.ring()
        else:
            box.merges += 1
            gathering.merge(row, text, token_ids)
        if logprobs:
            gathering.logprobs.setdefault(row, []).extend(logprobs)

    def finished(self, finished: Finished) -> None:
        if self._closed:
            return
        self.tally.end()
        gathering = self._box._room(finished.ByteSize())
        gathering.has_events = True
        ended = gathering.events.finished.add()
        ended.stream_id = self._stream_id
        ended.finished.CopyFrom(finished)
        self._box._bell.ring()


def rows_of(columns: DeltaColumns) -> Iterator[tuple[int, str, Sequence[int], Sequence[TokenLogprobs]]]:
    """Split columns into rows of stream id, text, token ids and log-probabilities.

    Raises:
        ValueError: the columns do not fit each other.
    """
    ids, texts, counts, tokens = columns.stream_ids, columns.texts, columns.token_counts, list(columns.token_ids)
    if not len(ids) == len(texts) == len(counts) or sum(counts) != len(tokens):
        raise ValueError("columns of different lengths")
    if len(tokens) == len(ids) and max(counts, default=1) == 1 and not columns.logprobs:  # the usual step of an engine
        return zip(ids, texts, zip(tokens, strict=True), repeat(()))
    ends = list(accumulate(counts))
    slices = (tokens[end - count : end] for end, count in zip(ends, counts, strict=True))
    logprobs = {row.row: row.tokens for row in columns.logprobs}
    return zip(ids, texts, slices, (logprobs.get(at, ()) for at in range(len(ids))), strict=True)
