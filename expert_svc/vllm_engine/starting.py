"""Starting and stopping AsyncLLM, and saying in one line why it would not start."""

import asyncio
import difflib
import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import vllm
from vllm.config.logging import LoggingConfig
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from expert_svc.load_board import LoadBoard
from expert_svc.load_meter import LoadMeter
from expert_svc.vllm_engine import SHUTDOWN_GRACE_S, EngineFailed, VllmSettings
from expert_svc.vllm_engine.engine import VllmEngine
from expert_svc.vllm_engine.logs import last_words, one_line, write_config
from expert_svc.vllm_engine.reporter import reporting_to
from expertmesh.v1.expert_pb2 import DescribeResponse, ServedExpert

OURS: Mapping[str, Any] = {
    "disable_log_stats": True,  # vLLM's own log lines about load; the statistics still reach the reporter
    "use_tqdm_on_load": False,
    "scheduling_policy": "priority",  # by the request's class, then first come first served
    # One backend, named: under vLLM's "auto" the first request's structure would choose it for all that follow, and
    # parts of a later schema that it does not know would be ignored in silence instead of refused.
    "structured_outputs_config": {"backend": "xgrammar"},
}


@asynccontextmanager
async def started(settings: VllmSettings) -> AsyncIterator[VllmEngine]:
    """As `open_vllm_engine`, which see."""
    adapters = _adapters(settings.serves)
    arguments = engine_arguments(settings.engine_args, adapters)
    with tempfile.TemporaryDirectory(prefix="expertmesh-") as folder:
        config, words = write_config(Path(folder), settings.log_level)
        arguments["logging_config"] = LoggingConfig(pylogging_config_file=str(config))
        board = LoadBoard()
        meter = LoadMeter(board)
        llm = await _start(arguments, meter, words)
        watching: asyncio.Task[None] | None = None
        engine: VllmEngine | None = None
        try:
            engine = VllmEngine(
                llm,
                adapters=adapters,
                description=describe(llm, settings),
                board=board,
                meter=meter,
                last_words=words,
            )
            await _first_answers(llm, engine, adapters, words)
            watching = asyncio.create_task(engine.watch(), name="watch the engine")
            yield engine
        finally:
            if watching is not None:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
            if engine is not None:
                engine.close()
            await _stop(llm)


def engine_arguments(given: Mapping[str, Any], adapters: Mapping[str, LoRARequest | None]) -> dict[str, Any]:
    """Return the arguments for AsyncEngineArgs: the given ones, and ours where nothing is given.

    Raises:
        EngineFailed: an unknown name, or a model or adapter that is not there.
    """
    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise EngineFailed(f"vLLM {vllm.__version__} has no engine argument {name}{hint}")
    model = given.get("model")
    if not model:
        raise EngineFailed("the engine arguments name no model")
    if not Path(str(model)).is_dir() and (os.sep in str(model) or str(model).startswith(".")):
        raise EngineFailed(f"no model folder at {model}")
    arguments = {**OURS, **given, "model": str(model)}
    if loras := [adapter for adapter in adapters.values() if adapter]:
        spare = _spare_slots(adapters)
        arguments.setdefault("enable_lora", True)
        arguments.setdefault("max_loras", len(loras) + spare)
        arguments.setdefault("max_cpu_loras", max(len(loras), int(arguments["max_loras"])))
        ranks = {lora.lora_name: _rank(Path(lora.lora_path)) for lora in loras}
        arguments.setdefault("max_lora_rank", _rank_for(max(ranks.values())))
        for expert, rank in ranks.items():
            if rank > int(arguments["max_lora_rank"]):
                raise EngineFailed(f"the adapter of expert {expert} has rank {rank}, above max_lora_rank")
        if int(arguments["max_loras"]) < len(loras) + spare and spare:
            raise EngineFailed(
                f"on a CPU, {len(loras)} adapters beside their base model need max_loras of at least {len(loras) + 1}"
            )
    return arguments


def describe(llm: AsyncLLM, settings: VllmSettings) -> DescribeResponse:
    """Return what the contract says about this engine."""
    config, model = llm.vllm_config, llm.model_config
    served = settings.engine_args.get("served_model_name")
    name = served[0] if isinstance(served, list) and served else served
    return DescribeResponse(
        experts=[
            ServedExpert(name=expert, adapter=folder.name if folder else "")
            for expert, folder in settings.serves.items()
        ],
        engine="vllm",
        engine_version=vllm.__version__,
        base_model=str(name or Path(str(model.model)).name),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=model.quantization or "",
        tensor_parallel_size=config.parallel_config.tensor_parallel_size,
        context_length=model.max_model_len,
        vocabulary_size=model.get_vocab_size(),
        kv_cache_tokens=config.cache_config.kv_cache_size_tokens or 0,
        max_running=config.scheduler_config.max_num_seqs,
    )


async def _start(arguments: Mapping[str, Any], meter: LoadMeter, words: Path) -> AsyncLLM:
    """Start AsyncLLM in a thread. When cancelled, its processes are killed before this returns."""

    def start() -> AsyncLLM:
        args = AsyncEngineArgs(**arguments)
        return AsyncLLM.from_engine_args(args, stat_loggers=[reporting_to(meter)])

    before = set(multiprocessing.active_children())
    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():  # its processes appear at some moment of the start: kill them as they do
            for child in set(multiprocessing.active_children()) - before:
                child.kill()
            await asyncio.wait({starting}, timeout=0.1)
        if not starting.cancelled() and starting.exception() is None:
            await _stop(starting.result())
        raise
    except Exception as error:  # whatever vLLM, torch or a model's code raises: the process cannot go on
        traceback.clear_frames(error.__traceback__)  # lets go of half an engine now
        if type(error).__name__ == "LocalEntryNotFoundError":  # huggingface_hub's, for a name that is no folder
            said = f"no model {arguments['model']}: neither a folder here nor in the Hugging Face cache"
            raise EngineFailed(said) from error
        raise EngineFailed(last_words(words) or one_line(error)) from error


async def _first_answers(
    llm: AsyncLLM, engine: VllmEngine, adapters: Mapping[str, LoRARequest | None], words: Path
) -> None:
    for expert, adapter in adapters.items():
        try:
            if adapter is not None:
                await llm.add_lora(adapter)
        except Exception as error:
            raise EngineFailed(f"the adapter of expert {expert} does not load: {one_line(error)}") from error
    try:
        await engine.warm_up()
    except Exception as error:
        raise EngineFailed(f"the engine does not answer: {last_words(words) or one_line(error)}") from error


async def _stop(llm: AsyncLLM) -> None:
    if (handler := llm.output_handler) is not None:  # ended first, or it would take the orderly end for a death
        handler.cancel()
        await asyncio.wait({handler})
    await asyncio.to_thread(llm.shutdown, SHUTDOWN_GRACE_S)
    await asyncio.sleep(0)  # vLLM closes its sockets on this loop
    llm.engine_core.resources.ctx.destroy(linger=0)


def _adapters(serves: Mapping[str, Path | None]) -> dict[str, LoRARequest | None]:
    if not serves:
        raise EngineFailed("the engine serves no expert")
    return {
        expert: None if folder is None else LoRARequest(expert, number, str(folder))
        for number, (expert, folder) in enumerate(serves.items(), start=1)
    }


def _spare_slots(adapters: Mapping[str, LoRARequest | None]) -> int:
    """Return how many adapter slots must stay empty: one, where base model and adapters share a CPU engine.

    vLLM's CPU kernels read "no adapter", -1, as an index: in a batch with an adapter's request, the base model's
    requests get the adapter in the last slot (vllm-project/vllm#48421, open). An empty last slot adds nothing.
    """
    return int(current_platform.is_cpu() and None in adapters.values())


def _rank(adapter: Path) -> int:
    try:
        return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except FileNotFoundError:
        raise EngineFailed(f"no adapter at {adapter}: it has no adapter_config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise EngineFailed(f"adapter {adapter.name}: adapter_config.json has no rank: {one_line(error)}") from None


def _rank_for(highest: int) -> int:
    """Return the smallest of vLLM's ranks that has room for `highest`."""
    return next((rank for rank in get_args(MaxLoRARanks) if rank >= highest), highest)
