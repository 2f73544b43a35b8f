"""Where answers go, and how what has gathered is merged."""

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertmesh.v1.generation_pb2 import Finished, GenerateResponse, RouteChosen, TokenLogprob, TokenLogprobs
from expertmesh.v1.inference_pb2 import DeltaColumns, RowLogprobs, SessionResponse
from mesh_wire.errors import BadInput
from mesh_wire.outlets import StreamOutlet
from mesh_wire.session_outbox import SessionOutbox, rows_of

ROUTE, END = RouteChosen(expert="math"), Finished(request_id="x")

deltas = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.lists(st.integers(0, 99), max_size=4)
)


def logprobs(tokens: Sequence[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs(drawn=TokenLogprob(token_id=token)) for token in tokens]


async def drained(outlet: StreamOutlet) -> list[GenerateResponse]:
    outlet.close()
    return [message async for message in outlet.messages()]


def names(messages: Sequence[GenerateResponse]) -> list[str | None]:
    return [message.WhichOneof("event") for message in messages]


# One call


async def test_events_leave_in_the_contract_s_order_however_late_they_are_read() -> None:
    outlet = StreamOutlet()
    outlet.route(ROUTE)
    outlet.delta("a", [1])
    outlet.delta("b", [2, 3])
    outlet.finished(END)

    route, delta, end = await drained(outlet)

    assert route.route == ROUTE
    assert (delta.delta.text, list(delta.delta.token_ids)) == ("ab", [1, 2, 3])
    assert end.finished == END


async def test_a_prompt_reader_gets_every_delta_by_itself() -> None:
    outlet = StreamOutlet()
    messages = outlet.messages()
    for text in ("a", "b", "c"):
        outlet.delta(text, [1])
        assert (await anext(messages)).delta.text == text


async def test_a_delta_wakes_a_reader_that_waits() -> None:
    outlet = StreamOutlet()
    waiting = asyncio.ensure_future(anext(outlet.messages()))
    await asyncio.sleep(0)
    outlet.delta("a", [1])

    assert (await waiting).delta.text == "a"


async def test_what_was_put_before_the_close_is_still_read() -> None:
    outlet = StreamOutlet()
    outlet.delta("a", [1])

    assert names(await drained(outlet)) == ["delta"]


async def test_a_reader_that_was_cancelled_can_be_followed_by_another() -> None:
    outlet = StreamOutlet()
    first = asyncio.ensure_future(anext(outlet.messages()))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    outlet.delta("a", [1])

    assert names(await drained(outlet)) == ["delta"]


async def test_the_tally_counts_tokens_and_not_messages() -> None:
    outlet = StreamOutlet()
    assert (outlet.tally.tokens, outlet.tally.first_at) == (0, None)
    outlet.delta("a", [1, 2])
    first = outlet.tally.first_at
    outlet.delta("b", [3])

    assert outlet.tally.tokens == 3
    assert outlet.tally.first_at == first is not None
    assert outlet.tally.ended_at is None
    outlet.finished(Finished())
    assert outlet.tally.ended_at is not None
    assert outlet.tally.ended_at >= first


@given(st.lists(deltas, max_size=12), st.data())
async def test_concatenated_deltas_are_the_answer_however_it_is_read(
    said: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    outlet, got = StreamOutlet(), []
    messages = outlet.messages()
    for text, tokens in said:
        outlet.delta(text, list(tokens), logprobs(tokens))
        if data.draw(st.booleans()):
            got.append((await anext(messages)).delta)
    got += [message.delta for message in await drained(outlet)]

    assert "".join(delta.text for delta in got) == "".join(text for text, _ in said)
    tokens = [token for _, tokens in said for token in tokens]
    assert [token for delta in got for token in delta.token_ids] == tokens
    assert [entry.drawn.token_id for delta in got for entry in delta.logprobs] == tokens


# One session


async def taken(box: SessionOutbox) -> list[SessionResponse]:
    box.close()
    return [message async for message in box.messages()]


async def test_what_gathers_for_many_streams_is_one_message() -> None:
    box = SessionOutbox()
    one, two = box.outlet(1), box.outlet(2)
    one.route(ROUTE)
    for number in range(3):
        one.delta("a", [number])
        two.delta("b", [number + 10])
    two.finished(END)
    box.failed(3, BadInput("m", reason="R"))

    [message] = await taken(box)

    assert [(each.stream_id, each.route) for each in message.routes] == [(1, ROUTE)]
    assert list(rows_of(message.deltas)) == [(1, "aaa", [0, 1, 2], ()), (2, "bbb", [10, 11, 12], ())]
    assert [each.stream_id for each in message.finished] == [2]
    assert [each.stream_id for each in message.failed] == [3]


async def test_a_closed_outlet_takes_back_what_it_gave_and_takes_no_more() -> None:
    box = SessionOutbox()
    one, two = box.outlet(1), box.outlet(2)
    for outlet in (one, two):
        outlet.route(ROUTE)
        outlet.delta("a", [1])
        outlet.finished(END)
    one.close()
    one.route(ROUTE)
    one.delta("b", [2])
    one.finished(END)

    [message] = await taken(box)

    assert [each.stream_id for each in message.routes] == [2]
    assert [row[0] for row in rows_of(message.deltas)] == [2]
    assert [each.stream_id for each in message.finished] == [2]


async def test_a_box_with_nothing_in_it_says_nothing() -> None:
    assert await taken(SessionOutbox()) == []


streams = st.lists(st.tuples(st.integers(1, 4), deltas, st.booleans()), max_size=25)


@settings(max_examples=40)
@given(streams, st.data())
async def test_columns_carry_every_stream_whole_and_in_order(
    said: list[tuple[int, tuple[str, list[int]], bool]], data: st.DataObject
) -> None:
    box = SessionOutbox()
    outlets, got = {number: box.outlet(number) for number in range(1, 5)}, []
    messages = box.messages()
    for number, (text, tokens), with_logprobs in said:
        outlets[number].delta(text, list(tokens), logprobs(tokens) if with_logprobs else ())
        if data.draw(st.booleans()):
            got.append(await anext(messages))
    got += await taken(box)

    rows = [row for message in got for row in rows_of(SessionResponse.FromString(message.SerializeToString()).deltas)]
    for message in got:
        assert len(set(message.deltas.stream_ids)) == len(message.deltas.stream_ids)
    for number in outlets:
        mine = [row for row in rows if row[0] == number]
        given_ = [(delta, wanted) for stream, delta, wanted in said if stream == number]
        assert "".join(row[1] for row in mine) == "".join(text for (text, _), _ in given_)
        assert [token for row in mine for token in row[2]] == [token for (_, tokens), _ in given_ for token in tokens]
        told = [entry.drawn.token_id for row in mine for entry in row[3]]
        assert told == [token for (_, tokens), wanted in given_ if wanted for token in tokens]
        assert outlets[number].tally.tokens == sum(len(tokens) for (_, tokens), _ in given_)


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 9), max_size=4),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=2), max_size=4),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
    st.lists(st.integers(0, 9), max_size=8),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
)
def test_columns_that_do_not_fit_each_other_are_refused(
    ids: list[int], texts: list[str], counts: list[int], tokens: list[int], rows: list[int]
) -> None:
    columns = DeltaColumns(
        stream_ids=ids,
        texts=texts,
        token_counts=counts,
        token_ids=tokens,
        logprobs=[RowLogprobs(row=row, tokens=logprobs([1])) for row in rows],
    )
    if len(ids) == len(texts) == len(counts) and sum(counts) == len(tokens):
        assert [row[0] for row in rows_of(columns)] == ids
        assert [token for row in rows_of(columns) for token in row[2]] == tokens
    else:
        with pytest.raises(ValueError, match="columns"):
            rows_of(columns)


# What has gathered, in messages that any client takes


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3), deltas, st.sampled_from("rdf")), max_size=40), st.data())
async def test_a_small_limit_splits_what_gathers_and_changes_nothing_else(
    said: list[tuple[int, tuple[str, list[int]], str]], data: st.DataObject
) -> None:
    with patch("mesh_wire.outlets.LARGEST_BYTES", 40), patch("mesh_wire.session_outbox.LARGEST_BYTES", 40):
        box, alone = SessionOutbox(), StreamOutlet()
        outlets, got = {number: box.outlet(number) for number in range(1, 4)}, []
        messages = box.messages()
        put: dict[int, list[str]] = {number: [] for number in outlets}
        for number, (text, tokens), what in said:
            if what == "r":
                outlets[number].route(RouteChosen(expert="math"))
                put[number].append("r")
            elif what == "f":
                outlets[number].finished(END)
                put[number].append("f")
            else:
                outlets[number].delta(text, tokens, logprobs(tokens))
                alone.delta(text, tokens, logprobs(tokens))
                put[number] += [f"t{token}" for token in tokens]
            if data.draw(st.booleans()) and what != "d":
                got.append(await anext(messages))
        got += await taken(box)
        whole = await drained(alone)

    for message in got:
        columns = message.deltas
        assert len(columns.stream_ids) <= 1 or sum(map(len, columns.texts)) + 4 * len(columns.token_ids) <= 40
    for number, mine in put.items():
        heard = []
        for message in got:
            heard += ["r" for each in message.routes if each.stream_id == number]
            heard += [f"t{token}" for row in rows_of(message.deltas) if row[0] == number for token in row[2]]
            heard += ["f" for each in message.finished if each.stream_id == number]
        assert [one for one in heard if one[0] == "t"] == [one for one in mine if one[0] == "t"]
        assert heard.count("r") == mine.count("r")
        assert heard.count("f") == mine.count("f")
    tokens = [token for _, (_, tokens), what in said if what == "d" for token in tokens]
    assert [token for message in whole for token in message.delta.token_ids] == tokens
    assert [entry.drawn.token_id for message in whole for entry in message.delta.logprobs] == tokens


async def test_an_end_never_leaves_before_what_is_split() -> None:
    box = SessionOutbox()
    one = box.outlet(1)
    one.route(ROUTE)
    for number in range(5):
        one.delta("x" * 400_000, [number])
    one.finished(END)

    first, second, third = await taken(box)

    assert [len(message.routes) for message in (first, second, third)] == [1, 0, 0]
    assert [list(message.deltas.token_ids) for message in (first, second, third)] == [[0, 1], [2, 3], [4]]
    assert [len(message.finished) for message in (first, second, third)] == [0, 0, 1]


async def test_a_closed_outlet_takes_back_what_was_split_too() -> None:
    box = SessionOutbox()
    one, two = box.outlet(1), box.outlet(2)
    for _ in range(5):
        one.delta("x" * 400_000, [1])
    for outlet in (two, one):
        outlet.delta("y", [2])
    one.close()

    [message] = await taken(box)

    assert [(stream, text, list(ids)) for stream, text, ids, _ in rows_of(message.deltas)] == [(2, "y", [2])]


async def test_refusals_of_a_flood_of_starts_are_split() -> None:
    box = SessionOutbox()
    for number in range(20_000):
        box.failed(number, BadInput("no", reason="STREAM_REUSED", field="starts.stream_id"))

    messages = await taken(box)

    assert [each.stream_id for message in messages for each in message.failed] == list(range(20_000))
    assert max(message.ByteSize() for message in messages) < 1_100_000


async def test_what_is_split_leaves_even_if_the_rest_is_taken_back() -> None:
    box = SessionOutbox()
    one, two = box.outlet(1), box.outlet(2)
    one.delta("x" * 900_000, [1])
    two.delta("y" * 900_000, [2])
    two.close()

    [message] = await taken(box)

    assert message.deltas.stream_ids == [1]
