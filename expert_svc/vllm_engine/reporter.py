"""vLLM's scheduler statistics, handed to the load meter."""

import time
from collections.abc import Callable

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from expert_svc.load_meter import LoadMeter


class Reporter(StatLoggerBase):
    """Called by vLLM on the event loop after every engine step that it hears of; not at all while idle.

    vLLM does not say how long a step took. Its loop does not pause while there is work, so the time between two
    reports is the step's time whenever something ran at the first of them.
    """

    def __init__(self, meter: LoadMeter) -> None:
        self._meter = meter
        self._busy_since: float | None = None  # when the last report came, if anything ran after it

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is None:
            return
        now = time.monotonic()
        step_s = None if self._busy_since is None else now - self._busy_since
        self._busy_since = now if scheduler_stats.num_running_reqs else None
        self._meter.step(
            running=scheduler_stats.num_running_reqs,
            kv_cache_use=scheduler_stats.kv_cache_usage,
            tokens=iteration_stats.num_generation_tokens if iteration_stats else 0,
            step_s=step_s,
            prompt_tokens=iteration_stats.prompt_token_stats.computed if iteration_stats else 0,
        )

    def log_engine_initialized(self) -> None:
        pass


def reporting_to(meter: LoadMeter) -> Callable[[VllmConfig, int], StatLoggerBase]:
    """Return the factory that vLLM asks for a statistics logger."""
    return lambda config, engine_index: Reporter(meter)
