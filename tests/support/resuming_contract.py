"""What every engine must do with an answer that was cut off: inherited by the tests of each."""

from collections.abc import Sequence

import pytest

from expert_svc.engine import Chunk, Engine
from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.errors import BadInput
from mesh_wire.resuming import Delivered
from support.asking import Answered, ask, greedy
from support.engine_contract import LENGTH, STOP


def rest_of(request: GenerateRequest, chunks: Sequence[Chunk]) -> GenerateRequest:
    """Return the request for what follows `chunks`."""
    delivered = Delivered()
    for chunk in chunks:
        delivered.add(chunk.text, chunk.token_ids)
    delivered.times = 1
    rest = GenerateRequest()
    rest.CopyFrom(request)
    rest.resume.CopyFrom(delivered.resume())
    return rest


def joined(chunks: Sequence[Chunk], rest: Answered) -> tuple[str, list[int]]:
    """Return the text and the tokens of both parts."""
    text = "".join(chunk.text for chunk in chunks) + rest.text
    return text, [*(token for chunk in chunks for token in chunk.token_ids), *rest.token_ids]


async def check_every_cut(engine: Engine, request: GenerateRequest) -> Answered:
    """Cut an answer after each of its chunks: both parts together must be the whole. Returns the whole."""
    whole = await ask(engine, request)
    for cut in range(1, len(whole.chunks) + 1):
        before = whole.chunks[:cut]
        rest = await ask(engine, rest_of(request, before))

        assert joined(before, rest) == (whole.text, whole.token_ids), f"cut after {cut}"
        assert (rest.ended.reason, rest.ended.matched) == (whole.ended.reason, whole.ended.matched)
        assert rest.ended.completion_tokens == whole.ended.completion_tokens
        assert rest.ended.prompt_tokens == whole.ended.prompt_tokens
        assert rest.ended.cached_prompt_tokens <= rest.ended.prompt_tokens
    return whole


class ResumingContract:
    async def test_a_greedy_answer_cut_anywhere_goes_on_token_for_token(self, engine: Engine) -> None:
        whole = await check_every_cut(engine, greedy(ignore_eos=True))

        assert whole.ended.reason == LENGTH

    async def test_a_stop_string_across_the_cut_is_met(self, engine: Engine) -> None:
        plain = await ask(engine, greedy())
        at = len("".join(chunk.text for chunk in plain.chunks[:5]))
        stop = plain.text[at - 4 : at + 6]  # it begins before a token's text and ends after it

        whole = await check_every_cut(engine, greedy(stop=["never said at all", stop]))

        assert (whole.ended.reason, whole.ended.matched) == (STOP, stop)
        assert whole.text == plain.text[: plain.text.index(stop)]

    async def test_a_stop_token_and_fewest_tokens_count_from_the_whole_answers_beginning(self, engine: Engine) -> None:
        tokens = (await ask(engine, greedy())).token_ids

        whole = await check_every_cut(engine, greedy(stop_token_ids=[tokens[4]], min_new_tokens=3))

        assert whole.ended.matched == tokens[4]

    async def test_logprobs_go_on(self, engine: Engine) -> None:
        request = greedy(logprobs=2)
        whole = await ask(engine, request)
        entries = [entry for chunk in whole.chunks for entry in chunk.logprobs]
        for cut in (1, 4, len(whole.chunks) - 1):
            rest = await ask(engine, rest_of(request, whole.chunks[:cut]))
            after = [entry for chunk in rest.chunks for entry in chunk.logprobs]

            assert [entry.drawn.token_id for entry in after] == rest.token_ids
            expected = entries[-len(after) :]
            assert [entry.drawn.text for entry in after] == [entry.drawn.text for entry in expected]
            assert [entry.drawn.logprob for entry in after] == pytest.approx(
                [entry.drawn.logprob for entry in expected], abs=0.1
            )

    async def test_a_text_that_the_tokens_do_not_say_is_refused(self, engine: Engine) -> None:
        whole = await ask(engine, greedy())
        request = rest_of(greedy(), whole.chunks[:3])
        request.resume.text = "quite another one"

        with pytest.raises(BadInput) as refused:
            await ask(engine, request)

        assert (refused.value.reason, refused.value.field) == ("RESUME_INVALID", "resume")

    async def test_a_delivered_token_outside_the_vocabulary_is_refused(self, engine: Engine) -> None:
        request = greedy()
        request.resume.token_ids.append(engine.description.vocabulary_size)

        with pytest.raises(BadInput) as refused:
            await ask(engine, request)

        assert (refused.value.reason, refused.value.field) == ("TOKEN_OUT_OF_VOCABULARY", "resume.token_ids[0]")

    async def test_a_seeded_answer_goes_on_in_the_same_way_each_time(self, engine: Engine) -> None:
        request = greedy(temperature=1.0, seed=7)
        before = (await ask(engine, request)).chunks[:4]

        one, other = [await ask(engine, rest_of(request, before)) for _ in range(2)]

        assert one.token_ids == other.token_ids
        assert one.ended.completion_tokens == len(one.token_ids) + sum(len(chunk.token_ids) for chunk in before)
