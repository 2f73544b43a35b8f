"""What every engine must do: inherited by the tests of each, which give the fixture `engine`."""

import asyncio
import time
from contextlib import aclosing

import pytest

from expert_svc.engine import Engine
from expertmesh.v1.generation_pb2 import Chat, ChatMessage, FinishReason, GenerateRequest, Part, Role, TokenIds
from mesh_wire.errors import BadInput
from support.asking import ask, greedy, idle, vacated
from support.waiting import eventually

LENGTH, STOP = FinishReason.FINISH_REASON_LENGTH, FinishReason.FINISH_REASON_STOP


class EngineContract:
    async def test_an_answer_ends_at_max_new_tokens(self, engine: Engine) -> None:
        answered = await ask(engine, greedy(max_new_tokens=5, ignore_eos=True))

        assert answered.ended.reason == LENGTH
        assert answered.ended.completion_tokens == len(answered.token_ids) == 5
        assert answered.ended.matched is None

    async def test_the_same_request_gets_the_same_answer(self, engine: Engine) -> None:
        first, second = await ask(engine, greedy()), await ask(engine, greedy())

        assert first.text
        assert (first.text, first.token_ids) == (second.text, second.token_ids)

    async def test_a_prompt_is_a_chat_of_one_turn(self, engine: Engine) -> None:
        turn = ChatMessage(role=Role.ROLE_USER, parts=[Part(text="Tell me about "), Part(text="rivers.")])
        chat = GenerateRequest(chat=Chat(messages=[turn]), sampling=greedy().sampling)

        assert (await ask(engine, chat)).text == (await ask(engine, greedy("Tell me about rivers."))).text

    async def test_an_answer_is_cut_before_a_stop_string(self, engine: Engine) -> None:
        whole = (await ask(engine, greedy())).text
        stop = whole[len(whole) // 2 :][:3]

        answered = await ask(engine, greedy(stop=["never said", stop]))

        assert answered.text == whole[: whole.index(stop)]
        assert answered.ended.reason == STOP
        assert answered.ended.matched == stop

    async def test_a_stop_token_ends_the_answer(self, engine: Engine) -> None:
        whole = (await ask(engine, greedy())).token_ids
        stop = whole[4]

        answered = await ask(engine, greedy(stop_token_ids=[stop]))

        assert answered.token_ids == whole[: whole.index(stop) + 1]
        assert answered.ended.reason == STOP
        assert answered.ended.matched == stop

    async def test_token_ids_are_taken_as_they_are(self, engine: Engine) -> None:
        request = GenerateRequest(token_ids=TokenIds(ids=[5, 6, 7]), sampling=greedy(max_new_tokens=3).sampling)

        assert (await ask(engine, request)).ended.prompt_tokens == 3

    async def test_every_token_has_its_logprobs(self, engine: Engine) -> None:
        answered = await ask(engine, greedy(logprobs=3))
        entries = [entry for chunk in answered.chunks for entry in chunk.logprobs]

        assert [entry.drawn.token_id for entry in entries] == answered.token_ids
        for entry in entries:
            assert [top.rank for top in entry.top] == [1, 2, 3]
            assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)
            assert entry.drawn.logprob <= 0

    async def test_logprobs_of_the_drawn_token_alone(self, engine: Engine) -> None:
        answered = await ask(engine, greedy(logprobs=0))

        assert all(entry.drawn.rank and not entry.top for chunk in answered.chunks for entry in chunk.logprobs)

    async def test_milestones_lie_on_this_process_clock(self, engine: Engine) -> None:
        before = time.monotonic()
        passed = (await ask(engine, greedy())).ended.milestones
        after = time.monotonic()

        points = [before, passed.queued, passed.scheduled, passed.first_token, passed.last_token, after]
        assert points == sorted(points)

    async def test_a_token_outside_the_vocabulary_is_refused(self, engine: Engine) -> None:
        size = engine.description.vocabulary_size
        request = GenerateRequest(token_ids=TokenIds(ids=[1, 2, size]))

        with pytest.raises(BadInput) as refused:
            await ask(engine, request)

        assert refused.value.reason == "TOKEN_OUT_OF_VOCABULARY"
        assert refused.value.field == "token_ids.ids[2]"
        assert refused.value.facts == {"vocabulary_size": str(size)}

    async def test_a_stop_token_outside_the_vocabulary_is_refused(self, engine: Engine) -> None:
        with pytest.raises(BadInput) as refused:
            await ask(engine, greedy(stop_token_ids=[3, engine.description.vocabulary_size]))

        assert (refused.value.reason, refused.value.field) == ("TOKEN_OUT_OF_VOCABULARY", "sampling.stop_token_ids[1]")

    async def test_a_prompt_that_fills_the_window_is_refused(self, engine: Engine) -> None:
        length = engine.description.context_length
        request = GenerateRequest(token_ids=TokenIds(ids=[5] * length))

        with pytest.raises(BadInput) as refused:
            await ask(engine, request)

        assert refused.value.reason == "PROMPT_TOO_LONG"
        assert refused.value.facts == {"prompt_tokens": str(length), "context_length": str(length)}

    async def test_min_new_tokens_need_room_too(self, engine: Engine) -> None:
        ids = TokenIds(ids=[5] * (engine.description.context_length - 3))

        with pytest.raises(BadInput) as refused:
            await ask(engine, GenerateRequest(token_ids=ids, sampling={"min_new_tokens": 4}))

        assert refused.value.reason == "PROMPT_TOO_LONG"

    async def test_max_new_tokens_beyond_the_window_are_cut_to_it(self, engine: Engine) -> None:
        ids = TokenIds(ids=[5] * (engine.description.context_length - 3))
        request = GenerateRequest(token_ids=ids, sampling={"max_new_tokens": 1_000_000, "ignore_eos": True})

        answered = await ask(engine, request)

        assert (answered.ended.completion_tokens, answered.ended.reason) == (3, LENGTH)

    @pytest.mark.parametrize("chunks", [1, 2, 7])
    async def test_closing_after_some_chunks_frees_the_place(self, engine: Engine, chunks: int) -> None:
        request = greedy(max_new_tokens=200, ignore_eos=True)
        stream = engine.generate(request, expert=self._expert(engine), request_id="left")
        for _ in range(chunks):
            await anext(stream)
        assert engine.board.latest.running

        await stream.aclose()

        await eventually(lambda: vacated(engine.board.latest))

    async def test_closing_before_the_first_chunk_is_asked_for_changes_nothing(self, engine: Engine) -> None:
        stream = engine.generate(greedy(), expert=self._expert(engine), request_id="never begun")
        await stream.aclose()

        await eventually(lambda: vacated(engine.board.latest))

    async def test_cancelling_at_any_moment_frees_the_place(self, engine: Engine) -> None:
        for turns in range(12):
            asking = asyncio.create_task(ask(engine, greedy(max_new_tokens=200, ignore_eos=True)))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        await eventually(lambda: vacated(engine.board.latest))
        assert (await ask(engine, greedy(max_new_tokens=2))).token_ids

    async def test_many_requests_are_answered_side_by_side(self, engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, greedy(f"Count to {n}.", ignore_eos=True)) for n in range(8)))

        assert [answered.ended.completion_tokens for answered in answers] == [12] * 8
        await eventually(lambda: idle(engine.board.latest))

    async def test_the_load_tells_what_runs(self, engine: Engine) -> None:
        async with aclosing(
            engine.generate(greedy(max_new_tokens=100, ignore_eos=True), expert=self._expert(engine), request_id="runs")
        ) as stream:
            for _ in range(5):
                await anext(stream)
            load = engine.board.latest

        assert (load.running, load.waiting, load.queued_prompt_tokens) == (1, 0, 0)
        assert load.kv_cache_use > 0
        assert load.tokens_per_second > 0
        assert load.HasField("step_time")

    async def test_a_healthy_engine_has_not_died(self, engine: Engine) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.died(), timeout=0.01)

    @staticmethod
    def _expert(engine: Engine) -> str:
        return engine.description.experts[0].name
