"""vLLM's AsyncLLM, in this process, as an `Engine`: the only folder that meets vLLM.

Importing this package does not import vLLM: `open_vllm_engine` sets the environment first, since vLLM reads it then.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expert_svc.engine import EngineFailed

if TYPE_CHECKING:
    from expert_svc.vllm_engine.engine import VllmEngine

# Set, unless the process has them already, before vLLM is imported.
__all__ = ["EngineFailed", "VllmSettings", "open_vllm_engine"]

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # a model is a folder; nothing is fetched at run time
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with gRPC's threads may hang
    "PYTHONWARNINGS": "ignore::FutureWarning",  # in vLLM's own processes: torch's, about names that vLLM uses
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
SHUTDOWN_GRACE_S = 10.0  # seconds that the engine-core process gets to leave before it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """What to serve, and with which engine."""

    serves: Mapping[str, Path | None]  # expert -> folder of its LoRA adapter; None: the base model itself
    engine_args: Mapping[str, Any] = field(default_factory=dict)  # of vLLM's AsyncEngineArgs, by vLLM's own names
    environment: Mapping[str, str] = field(default_factory=dict)  # of the engine's processes, over what there is
    log_level: str = "WARNING"  # of vLLM's own log lines, which go to standard error


@asynccontextmanager
async def open_vllm_engine(settings: VllmSettings) -> "AsyncIterator[VllmEngine]":
    """Start an engine, and stop it when the block ends. No process of it is left behind.

    The event loop stays free while it starts, which takes from half a minute up. LoRA settings follow from the
    adapters served, unless `engine_args` has them.

    Raises:
        EngineFailed: it cannot start.
    """
    os.environ.update(settings.environment)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", settings.log_level)
    # The import takes seconds; in a thread, signals are still heard.
    started = await asyncio.to_thread(_import_starting)
    async with started(settings) as engine:
        yield engine


def _import_starting() -> Any:
    # What vLLM says while it is imported would go to standard error whatever the level.
    logging.getLogger("vllm").addHandler(logging.NullHandler())
    from expert_svc.vllm_engine.starting import started

    return started
