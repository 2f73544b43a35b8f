"""One request of a load as its answer arrives: an outlet that measures and keeps nothing."""

import time
from collections.abc import Sequence

from expertmesh.v1.generation_pb2 import Finished, RouteChosen, TokenLogprobs
from expertmesh_client.load.histogram import Histogram
from expertmesh_client.load.plan import Job
from expertmesh_client.load.recorder import UNFINISHED, Recorder
from mesh_wire.outlets import Tally
from mesh_wire.words import reason_word


class Window:
    """What is measured, as two moments of the monotonic clock."""

    __slots__ = ("begins", "ends")

    def __init__(self, begins: float, ends: float) -> None:
        self.begins = begins
        self.ends = ends

    def holds(self, moment: float) -> bool:
        return self.begins <= moment < self.ends


class Reading:
    """Takes the events of one answer, as `mesh_wire.outlets.Outlet` has them.

    Args:
        intended: when it was to be asked, on the monotonic clock: times count from here, not from when the generator
            came round to it.
        asked: when it was; a timer may be early by its own resolution, and times then count from here.
        domain: its prompt's label; empty without one.
    """

    __slots__ = (
        "_first_at",
        "_intended",
        "_inter_token",
        "_job",
        "_largest_gap_s",
        "_last_at",
        "_recorder",
        "_window",
        "counted",
        "domain",
        "finished_at",
        "route_of",
        "tally",
        "usage",
    )

    def __init__(
        self, job: Job, recorder: Recorder, window: Window, intended: float, asked: float, domain: str
    ) -> None:
        self.tally = Tally()
        self.counted = window.holds(intended)
        self.domain = domain
        self.route_of: RouteChosen | None = None
        self.usage = 0
        self.finished_at: float | None = None
        self._job = job
        self._recorder = recorder
        self._window = window
        self._intended = min(intended, asked)
        self._first_at: float | None = None
        self._last_at = 0.0
        self._largest_gap_s = 0.0
        self._inter_token = recorder.times["inter_token"] if self.counted else Histogram()

    def route(self, chosen: RouteChosen) -> None:
        self.route_of = chosen

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        now, tokens = time.monotonic(), len(token_ids) or 1
        self.tally.tokens += tokens
        if self._first_at is None:
            self._first_at = now
        else:
            gap_s = now - self._last_at
            self._inter_token.record(gap_s / tokens, tokens)
            if gap_s > self._largest_gap_s:
                self._largest_gap_s = gap_s
        self._last_at = now
        if self._window.begins <= now < self._window.ends:
            self._recorder.counts["window_tokens"] += tokens

    def finished(self, finished: Finished) -> None:
        self.finished_at = time.monotonic()
        self.usage = finished.usage.prompt_tokens

    def end(self, failure: str = "", said: str = "") -> None:
        """Count how it ended.

        Args:
            failure: the reason of an error; UNFINISHED where the load ended first; empty for success.
            said: the error's words.
        """
        now = self.finished_at or time.monotonic()
        good = not failure and self._is_good()
        if not failure and self._window.holds(now):
            self._recorder.counts["window_answers"] += 1
            self._recorder.counts["window_good"] += good
        if not self.counted:
            return
        counts, times = self._recorder.counts, self._recorder.times
        counts["asked"] += 1
        if failure == UNFINISHED:
            # What it has waited so far is less than what it would have waited: a slow system is not spared by the end.
            counts["unfinished"] += 1
            times["first_token"].record((self._first_at or now) - self._intended)
            times["session"].record(now - self._intended)
        elif failure:
            self._recorder.shares["failed"][failure] += 1
            self._recorder.errors.setdefault(failure, said)
        else:
            counts["answered"] += 1
            counts["good"] += good
            counts["prompt_tokens"] += self.usage
            counts["output_tokens"] += self.tally.tokens
            times["session"].record(now - self._intended)
            if self._first_at is not None:
                times["first_token"].record(self._first_at - self._intended)
            if self.tally.tokens > 1 and self._first_at is not None:
                times["per_token"].record((self._last_at - self._first_at) / (self.tally.tokens - 1))
                times["largest_gap"].record(self._largest_gap_s)
        self._count_route()

    def _is_good(self) -> bool:
        """Whether it kept the job's goals."""
        first_goal, token_goal = self._job.goal_first_token_s, self._job.goal_per_token_s
        if first_goal is not None and (self._first_at is None or self._first_at - self._intended > first_goal):
            return False
        if token_goal is None or self._first_at is None or self.tally.tokens < 2:
            return True
        return (self._last_at - self._first_at) / (self.tally.tokens - 1) <= token_goal

    def _count_route(self) -> None:
        if (route := self.route_of) is None:
            return
        shares = self._recorder.shares
        shares["experts"][route.expert] += 1
        shares["replicas"][route.replica] += 1
        shares["reasons"][reason_word(route.reason)] += 1
        if self._first_at is not None:
            by_expert = self._recorder.first_token_by_expert
            by_expert.setdefault(route.expert, Histogram()).record(self._first_at - self._intended)
        if self.domain:
            shares["domains"][f"{self.domain}>{route.expert}"] += 1
            self._recorder.counts["labelled"] += 1
            self._recorder.counts["right"] += route.expert == expert_of(self.domain, self._job)


def expert_of(domain: str, job: Job) -> str:
    """Return who should answer a prompt of that label: its expert, or the generalist where nobody serves it."""
    return job.generalist if job.experts and domain not in job.experts else domain
