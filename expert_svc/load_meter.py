"""From what an engine does to the load that it posts."""

import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from expert_svc.load_board import LoadBoard
from expertmesh.v1.expert_pb2 import Load

WINDOW_S = 1.0  # over which the token rate is taken
SETTLE_EVERY_S = 0.25  # how often an engine calls `settle`, so that a rate falls when nothing happens any more
_NEWEST = 0.1  # weight of the newest value in a moving average


class LoadMeter:
    """Counts an engine's requests and tokens, and posts the load after every change.

    The requests held here are the truth about how many there are; the engine's last word on its batch says how many of
    them run. So the load is right at once when a request leaves, even if the engine never steps again.
    Not safe across threads: everything is called on the engine's event loop.
    """

    def __init__(self, board: LoadBoard, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._clock = clock
        self._unbegun: dict[str, int] = {}  # request id -> prompt tokens, oldest first
        self._unbegun_tokens = 0
        self._begun: dict[str, float] = {}  # request id -> when it began
        self._running = 0
        self._kv_cache_use = 0.0
        self._recent: deque[tuple[float, int]] = deque()  # (when, tokens) of the steps within the window
        self._recent_tokens = 0
        self._step_s: float | None = None
        self._quiet_step_s: float | None = None  # of steps that read no prompt
        # Of steps that read prompts: seconds and tokens read. The quotient of averages, rather than an average of
        # quotients: a small prompt in a step that was late for another reason would weigh too much.
        self._reading_step_s: float | None = None
        self._prompt_tokens: float | None = None
        self._place_s: float | None = None

    def admit(self, request_id: str, prompt_tokens: int) -> None:
        """Note that the engine holds a new request."""
        self._unbegun[request_id] = prompt_tokens
        self._unbegun_tokens += prompt_tokens
        self.settle()

    def begin(self, request_id: str) -> None:
        """Note that a request has its place in the batch, at the latest when its first token is there."""
        prompt_tokens = self._unbegun.pop(request_id, None)
        if prompt_tokens is not None:
            self._unbegun_tokens -= prompt_tokens
            self._begun[request_id] = self._clock()

    def leave(self, request_id: str) -> None:
        """Note that a request is over, however it ended."""
        if (prompt_tokens := self._unbegun.pop(request_id, None)) is not None:  # it never had a place
            self._unbegun_tokens -= prompt_tokens
        if (began := self._begun.pop(request_id, None)) is not None:
            self._place_s = _averaged(self._place_s, self._clock() - began)
        self.settle()

    def step(
        self, *, running: int, kv_cache_use: float, tokens: int, step_s: float | None, prompt_tokens: int = 0
    ) -> None:
        """Note one engine step.

        Args:
            running: sequences in the batch after it.
            kv_cache_use: share of the KV cache in use after it, in [0, 1].
            tokens: tokens that it generated, over all sequences.
            step_s: seconds that it took; None if that cannot be told.
            prompt_tokens: tokens of prompts that it read.
        """
        self._running, self._kv_cache_use = running, kv_cache_use
        if tokens:
            self._recent.append((self._clock(), tokens))
            self._recent_tokens += tokens
            self._board.generated += tokens
        if step_s is not None:
            self._step_s = _averaged(self._step_s, step_s)
            if prompt_tokens:
                self._reading_step_s = _averaged(self._reading_step_s, step_s)
                self._prompt_tokens = _averaged(self._prompt_tokens, prompt_tokens)
            else:
                self._quiet_step_s = _averaged(self._quiet_step_s, step_s)
        self.settle()

    def settle(self) -> None:
        """Post the load as it is now."""
        horizon = self._clock() - WINDOW_S
        while self._recent and self._recent[0][0] <= horizon:
            self._recent_tokens -= self._recent.popleft()[1]
        held = len(self._unbegun) + len(self._begun)
        running = min(self._running, held)
        waiting = held - running
        load = Load(
            running=running,
            waiting=waiting,
            kv_cache_use=round(min(self._kv_cache_use, 1.0), 4) if held else 0.0,
            tokens_per_second=round(self._recent_tokens / WINDOW_S, 1),
            queued_prompt_tokens=self._unbegun_tokens - self._being_read(waiting),
        )
        prompt_token_s = None
        # Before a step that read none, nobody knows what reading adds: a whole step for a few tokens would have a
        # router keep away from the replica that made its first step first.
        if self._reading_step_s is not None and self._quiet_step_s is not None and self._prompt_tokens:
            prompt_token_s = max(0.0, (self._reading_step_s - self._quiet_step_s) / self._prompt_tokens)
        for average_s, field in (
            (self._step_s, load.step_time),
            (prompt_token_s, load.prompt_token_time),
            (self._place_s, load.place_time),
        ):
            if average_s is not None:
                field.FromNanoseconds(round(average_s * 1e9))
        self._board.post(load)

    def _being_read(self, waiting: int) -> int:
        """Return the prompt tokens of requests in the batch that have no token yet: the oldest, as engines serve."""
        in_batch = len(self._unbegun) - waiting
        return sum(islice(self._unbegun.values(), in_batch)) if in_batch > 0 else 0


def _averaged(average: float | None, newest: float) -> float:
    """Return a moving average with its newest value."""
    return newest if average is None else average + _NEWEST * (newest - average)
