"""Prompts to scores, in batches of whatever is waiting; what is expensive runs beside the event loop, on a budget."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from mesh_wire.telemetry import Telemetry
from router_svc.classifying.conversation import Reading, joined, text_of
from router_svc.classifying.thinking import Thinking
from router_svc.strategies.cascade import margins
from router_svc.strategies.stages import NOBODY, Draft, Staged, even, stages_of
from router_svc.strategies.strategy import Fitted, Strategy

__all__ = ["FAILED", "OVER_BUDGET", "Classifier", "Reading", "Scored", "text_of"]

log = logging.getLogger(__name__)

OVER_BUDGET, FAILED = "over_budget", "strategy_failed"  # why somebody else than the intended strategy decided


@dataclass(frozen=True, slots=True)
class Scored:
    """What was said of one prompt, and by whom."""

    scores: dict[str, float]  # probability of each expert, or domain
    strategy: str  # who decided: the strategy, the first stage of a cascade, or NOBODY
    intended: str  # the strategy that was open
    fallback: str  # why it was another than intended: OVER_BUDGET, FAILED; empty: it was not
    generation: str  # of the artefact that made the scores
    margin: float  # between the best score and the second best, in [0, 1]


@dataclass(slots=True)
class _Drafted:
    """One request's parts after the first stage."""

    stages: Staged
    thinking: Thinking
    texts: Sequence[str]
    weights: Sequence[float]
    rows: NDArray[np.float32]  # (parts, experts)
    sure: NDArray[np.bool_]  # (parts,)
    strategy: str
    fallback: str = ""


@dataclass(slots=True)
class _Batch:
    readings: list[Reading] = field(default_factory=list)
    done: list[tuple[int, asyncio.Future[list[_Drafted]]]] = field(default_factory=list)  # with the number of readings


class Classifier:
    """Scores prompts by one strategy, which may be exchanged while requests are under way.

    Those that arrive in the same turn of the event loop share a batch; none waits for company. What a strategy is not
    sure of at once goes to a thread. If that takes longer than the budget, or fails, the first stage decides; if there
    is none, the scores are even, which a selection takes for unsure. A strategy's fault is never a request's failure:
    it is logged, once until it passes, and counted.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        budget_s: float = 0.05,
        telemetry: Telemetry | None = None,
        heard: Callable[[Scored], None] = lambda scored: None,
    ) -> None:
        """Args:
        budget_s: seconds that a prompt may wait for the thread.
        heard: is told of each prompt's scores.
        """
        self._heard = heard
        self._batch = _Batch()
        self._budget_s = budget_s
        self._instruments = (telemetry or Telemetry.off()).instruments
        self._ailing = False  # the last call of the strategy failed
        self._open(strategy)
        if telemetry is not None:
            telemetry.observe_seconds(
                "expertmesh.route.artefact.age", "Since the artefact was made", self.artefact_age_s
            )

    def _open(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._stages = stages_of(strategy)
        self._thinking = Thinking(self._budget_s)

    def swap(self, strategy: Strategy, *, budget_s: float | None = None) -> None:
        """Score by another strategy from now on. What is under way ends with the one that it began with, and a thread
        that is stuck in the old one does not hold the new one.

        Args:
            budget_s: another one; None: as before.
        """
        self._draft()
        if budget_s is not None:
            self._budget_s = budget_s
        self._thinking.close()
        self._open(strategy)

    async def aclose(self) -> None:
        """Release the thread."""
        self._thinking.close()

    def artefact_age_s(self) -> float | None:
        """Return how long ago the artefact was made, in seconds; None where there is none, or it does not say."""
        made = self.strategy.created if isinstance(self.strategy, Fitted) else ""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds()
        except (ValueError, TypeError):  # no date; one without a time zone
            return None

    async def scores(self, text: Reading | str) -> dict[str, float]:
        """Return the probability of each expert, or domain, of the strategy."""
        return (await self.scored(text)).scores

    async def scores_of(self, texts: Sequence[Reading | str]) -> list[dict[str, float]]:
        """Return the same for each of several texts."""
        return [one.scores for one in await self.scored_of(texts)]

    async def scored(self, text: Reading | str) -> Scored:
        """Return one prompt's scores, and who made them."""
        return (await self.scored_of([text]))[0]

    async def scored_of(self, texts: Sequence[Reading | str]) -> list[Scored]:
        """Return the same for each of several prompts; those that are sure wait for those that are not."""
        loop = asyncio.get_running_loop()
        if not self._batch.readings:
            loop.call_soon(self._draft)
        done: asyncio.Future[list[_Drafted]] = loop.create_future()
        self._batch.readings.extend(Reading(text) if isinstance(text, str) else text for text in texts)
        self._batch.done.append((len(texts), done))
        drafted = await done
        # A conversation whose last turn is clear needs no second opinion on what came before.
        unsure = [one for one in drafted if not one.sure[0]]
        if unsure:
            await self._finish(unsure)
        return [self._scored(one) for one in drafted]

    def _draft(self) -> None:
        """First stage: of all that arrived in this turn of the event loop."""
        batch, self._batch = self._batch, _Batch()
        if not batch.done:  # a swap came first
            return
        stages = self._stages
        texts = [text for reading in batch.readings for text in reading.texts]
        strategy, fallback = stages.first, ""
        try:
            draft = stages.draft(texts)
        except Exception:
            self._ails(len(texts))
            draft = Draft(even(len(texts), len(stages.experts)), np.ones(len(texts), dtype=np.bool_))
            strategy, fallback = NOBODY, FAILED
        else:
            if stages.first == stages.name:
                self._recovers()
        drafted, at = [], 0
        for reading in batch.readings:
            parts = slice(at, at + len(reading.texts))
            at = parts.stop
            rows, sure = draft.scores[parts], draft.sure[parts]
            drafted.append(
                _Drafted(stages, self._thinking, reading.texts, reading.weights(), rows, sure, strategy, fallback)
            )
        at = 0
        for count, done in batch.done:
            if not done.done():
                done.set_result(drafted[at : at + count])
            at += count

    async def _finish(self, unsure: Sequence[_Drafted]) -> None:
        """Second stage: have the thread look at the parts that are unsure, as long as the budget lasts."""
        asked: list[tuple[_Drafted, int, asyncio.Future[NDArray[np.float32]]]] = []
        for one in unsure:
            one.rows = one.rows.copy()
            if one.thinking.overdue:
                one.fallback = OVER_BUDGET
                continue
            for part in np.flatnonzero(~one.sure).tolist():
                future = one.thinking.finish(one.stages, one.texts[part], one.rows[part])
                asked.append((one, part, future))
        futures = [future for _, _, future in asked]
        try:
            if futures:
                await asyncio.wait(futures, timeout=self._budget_s)
        finally:
            late = [future for future in futures if future.cancel()]
        errors = [future.exception() for future in futures if not future.cancelled()]
        if failed := next((error for error in errors if error is not None), None):
            self._ails(len(futures), failed)
        elif len(late) < len(futures):
            self._recovers()
        for one, part, future in asked:
            if future.cancelled():
                one.fallback = one.fallback or OVER_BUDGET
            elif future.exception():
                one.fallback = FAILED
            else:
                one.rows[part] = future.result()
        for one in unsure:
            if not one.fallback:
                one.strategy = one.stages.name

    def _scored(self, one: _Drafted) -> Scored:
        row = joined(one.rows, one.weights)
        margin = float(margins(row[None])[0])
        intended = one.stages.name
        labels = {"expertmesh.strategy": intended, "expertmesh.decided_by": one.strategy}
        self._instruments.classified.add(1, {**labels, "expertmesh.fallback": one.fallback or "none"})
        self._instruments.margin.record(margin, labels)
        scores = dict(zip(one.stages.experts, row.tolist(), strict=True))
        scored = Scored(scores, one.strategy, intended, one.fallback, one.stages.generation, margin)
        self._heard(scored)
        return scored

    def _ails(self, prompts: int, error: BaseException | None = None) -> None:
        if not self._ailing:
            log.error("strategy %s failed on %d prompts", self.strategy.name, prompts, exc_info=error or True)
        self._ailing = True

    def _recovers(self) -> None:
        if self._ailing:
            log.info("strategy %s works again", self.strategy.name)
        self._ailing = False
