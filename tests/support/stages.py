"""Strategies in two stages that a test can foretell, hold up and break."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.stages import Draft


class TwoStaged:
    """The first stage is sure of prompts that hold "sure" and says `near`; the second says `far`.

    The second raises on "explode", returns rubbish on "rubbish", and waits for `go` on "wait".
    """

    name, first, experts, generation = "two_staged", "glance", ("near", "far"), "1"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []  # of the second stage
        self.threads: set[int] = set()

    def draft(self, prompts: Sequence[str]) -> Draft:
        sure = np.array(["sure" in prompt for prompt in prompts], dtype=np.bool_)
        return Draft(np.where(sure[:, None], [[1, 0]], [[0.6, 0.4]]).astype(np.float32), sure)

    def finish(self, prompts: Sequence[str], drafts: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(list(prompts))
        self.threads.add(threading.get_ident())
        if any("wait" in prompt for prompt in prompts):
            self.go.wait(30)
        if any("explode" in prompt for prompt in prompts):
            raise ZeroDivisionError
        fill = np.nan if any("rubbish" in prompt for prompt in prompts) else 0
        return np.tile(np.array([fill, 1], dtype=np.float32), (len(prompts), 1))

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return self.finish(prompts, self.draft(prompts).scores)
