"""Engines that do what no sound engine does, or only what the test says: the mesh's only fakes, at its far edge."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable

from expert_svc.engine import Chunk, Ended, EngineDied, Milestones
from expert_svc.load_board import LoadBoard
from expertmesh.v1.expert_pb2 import DescribeResponse, Load, ServedExpert
from expertmesh.v1.generation_pb2 import FinishReason, GenerateRequest


class FakeEngine(ABC):
    """What the fakes share: a description, a board, a count of what is held, and death on demand."""

    def __init__(self, *serves: str, max_running: int = 64) -> None:
        self.description = DescribeResponse(
            experts=[ServedExpert(name=name) for name in serves or ("general",)],
            engine="fake",
            base_model="fake",
            context_length=100,
            vocabulary_size=1000,
            max_running=max_running,
        )
        self.board = LoadBoard()
        self.requests: list[GenerateRequest] = []  # all that were ever begun
        self.held = 0
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def generate(
        self, request: GenerateRequest, *, expert: str, request_id: str
    ) -> AsyncGenerator[Chunk | Ended, None]:
        seen = GenerateRequest()
        seen.CopyFrom(request)
        self.requests.append(seen)
        self.held += 1
        self.board.post(Load(running=self.held))
        try:
            async for piece in self._pieces(request, request_id):
                yield piece
        finally:
            self.held -= 1
            self.board.post(Load(running=self.held))

    @abstractmethod
    def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        """Yield the answer's pieces."""

    def die(self, why: str = "it was shot") -> None:
        self._death.set_result(why)

    async def died(self) -> str:
        return await asyncio.shield(self._death)


class ByHand(FakeEngine):
    """Says nothing by itself: the test gives every token, end and failure of whatever is held."""

    def __init__(self, *serves: str, max_running: int = 64) -> None:
        super().__init__(*serves, max_running=max_running)
        self._mail: dict[str, asyncio.Queue[Chunk | Ended | Exception]] = {}

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        mail = self._mail[request_id] = asyncio.Queue()
        try:
            while True:
                piece = await mail.get()
                if isinstance(piece, Exception):
                    try:
                        raise piece
                    finally:
                        del piece  # its traceback has this frame: a cycle
                yield piece
                if isinstance(piece, Ended):
                    return
        finally:
            del self._mail[request_id]

    def say(self, text: str = "word ", to: str | None = None) -> None:
        """Give one token to the request of that id, or to all."""
        self._post(lambda: Chunk(text, [7]), to)

    def finish(self, to: str | None = None) -> None:
        """Let the request of that id, or all, end well."""
        self._post(ended, to)

    def fail(self, error: Exception, to: str | None = None) -> None:
        """Let the request of that id, or all, fail."""
        self._post(lambda: error, to)

    def die(self, why: str = "it was shot") -> None:
        super().die(why)
        self.fail(EngineDied(why))

    def _post(self, piece: Callable[[], Chunk | Ended | Exception], to: str | None) -> None:
        """Give each its own piece: whoever takes a chunk may keep its list of tokens."""
        for request_id, mail in self._mail.items():
            if to in (None, request_id):
                mail.put_nowait(piece())


class Firehose(FakeEngine):
    """Never pauses and never ends: 16 KB to every request in every turn of the event loop."""

    TEXT = "x" * 16 * 1024

    def __init__(self, *serves: str) -> None:
        super().__init__(*serves)
        self.sent_bytes = 0

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        while True:
            await asyncio.sleep(0)
            self.sent_bytes += len(self.TEXT)
            yield Chunk(self.TEXT, [7])


class Failing(FakeEngine):
    """Fails every request, at once or after some tokens."""

    def __init__(self, error: Exception, *serves: str, after_tokens: int = 0) -> None:
        super().__init__(*serves)
        self._error = error
        self._after_tokens = after_tokens

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        for _ in range(self._after_tokens):
            yield Chunk("word ", [7])
        raise self._error

    async def sound(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        """Answer as it should: in the place of `_pieces` once it is sound again."""
        yield Chunk("word ", [7])
        yield ended()


class Loaded(FakeEngine):
    """Answers at once, and says of itself what the test wants."""

    def __init__(self, running: int) -> None:
        super().__init__(max_running=64)
        self.answered = 0
        self.board.post(Load(running=running))
        self.board.post = lambda load: None  # type: ignore[method-assign]  # and nothing else

    async def _pieces(self, request: GenerateRequest, request_id: str) -> AsyncGenerator[Chunk | Ended, None]:
        self.answered += 1
        yield Chunk("word", [7])
        yield ended()


def ended() -> Ended:
    """Return a good end, with every milestone passed just now."""
    now = time.monotonic()
    return Ended(
        reason=FinishReason.FINISH_REASON_STOP,
        prompt_tokens=3,
        completion_tokens=2,
        milestones=Milestones(queued=now, scheduled=now, first_token=now, last_token=now),
    )
