"""How vLLM's end is noticed and its failure to start is explained, with real processes that are really killed."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import psutil
import pytest

from expert_svc.engine import Engine, EngineDied
from expert_svc.vllm_engine import EngineFailed, VllmSettings, open_vllm_engine
from support.adapters import write_adapter
from support.asking import ask, greedy, vacated
from support.calls import Whole
from support.mesh import running_mesh
from support.small_model import BASE, SMALL
from support.waiting import eventually

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    # Their own use of their own old names, while they are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|vllm|transformers|jinja2)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|vllm|transformers)"),
    pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning"),  # vLLM's, after a start that failed
]


SUBJECTS = (
    *("rivers", "ants", "bread", "the moon", "iron", "chess", "winter", "salt"),
    *("maps", "glass", "owls", "tea", "clocks", "paper", "bridges", "rain"),
)


def processes() -> list[str]:
    """Return the names of the processes that vLLM left running under this one."""
    commands = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # gone since, or dead and not buried
            commands.append(" ".join(child.cmdline()))
    # One that is just dying has given back its memory, and its command line with that.
    return [command for command in commands if command and "resource_tracker" not in command]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "odd", base=BASE)


@pytest.fixture
async def doomed() -> AsyncIterator[Engine]:
    async with open_vllm_engine(VllmSettings(serves={"general": None}, engine_args=SMALL)) as engine:
        yield engine
    assert processes() == []


async def test_an_engine_killed_at_work_tells_all_who_wait(doomed: Engine) -> None:
    async with aclosing(
        doomed.generate(greedy(max_new_tokens=500, ignore_eos=True), expert="general", request_id="cut off")
    ) as stream:
        await anext(stream)
        kill("EngineCore")
        with pytest.raises(EngineDied, match="SIGKILL"):
            await asyncio.wait_for(exhaust(stream), timeout=2)
    async with asyncio.timeout(2):
        assert await doomed.died() == "the engine-core process was ended by SIGKILL"
    with pytest.raises(EngineDied):
        await ask(doomed, greedy())
    assert vacated(doomed.board.latest)


async def test_an_engine_killed_while_idle_is_noticed(doomed: Engine) -> None:
    kill("EngineCore")
    async with asyncio.timeout(2):
        assert "SIGKILL" in await doomed.died()


PARENT = """
import asyncio, sys
from expert_svc.vllm_engine import VllmSettings, open_vllm_engine
from support.small_model import SMALL

async def main():
    async with open_vllm_engine(VllmSettings(serves={"general": None}, engine_args=SMALL)):
        print("up", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_an_engine_does_not_outlive_a_killed_parent() -> None:
    path = os.pathsep.join(sys.path)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"up\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert family

    parent.kill()
    await parent.wait()

    await eventually(lambda: not psutil.wait_procs(family, timeout=0)[1])


async def test_answers_of_an_engine_that_is_killed_go_on_at_another_word_for_word() -> None:
    """In float32: sums of bf16 numbers depend so much on who else is in the batch that greedy answers differ by it."""
    settings = VllmSettings(serves={"general": None}, engine_args={**SMALL, "max_num_seqs": 16, "dtype": "float32"})
    requests = [greedy(f"Tell me about {subject}.", max_new_tokens=48) for subject in SUBJECTS]
    async with AsyncExitStack() as life:
        opened = (life.enter_async_context(open_vllm_engine(settings)) for _ in range(2))
        doomed, survivor = await asyncio.gather(*opened)
        expected = [answered.text for answered in await asyncio.gather(*(ask(survivor, one) for one in requests))]
        mesh = await life.enter_async_context(running_mesh({"a": doomed, "b": survivor}))
        calls = [mesh.inference.Generate(request) for request in requests]
        answers = [Whole() for _ in calls]
        for call, answer in zip(calls, answers, strict=True):
            while len(answer.token_ids) < 5:
                answer.take(await call.read())

        [process] = doomed._processes
        process.kill()

        for call, answer in zip(calls, answers, strict=True):
            while not answer.over:
                answer.take(await call.read())
        assert sum(answer.finished.resumed for answer in answers if answer.finished) > 0
        assert [answer.text for answer in answers] == expected


async def exhaust(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


def kill(name: str) -> None:
    [process] = [child for child in psutil.Process().children(recursive=True) if name in " ".join(child.cmdline())]
    process.kill()


def unstartable(adapter: Path) -> Iterator[tuple[str, dict[str, object], dict[str, Path | None], str]]:
    yield (
        "typo",
        {"max_model_length": 5},
        {"general": None},
        "no engine argument max_model_length; did you mean max_model_len?",
    )
    yield "no model", {"model": "models/base/none"}, {"general": None}, "no model folder at models/base/none"
    yield "no name", {"model": "nobody"}, {"general": None}, "no model nobody"
    yield "dtype", {"dtype": "float13"}, {"general": None}, "dtype: Input should be 'auto'"
    yield "type", {"tensor_parallel_size": "two"}, {"general": None}, "tensor_parallel_size: Input should be a valid"
    yield "window", {"max_model_len": 100_000}, {"general": None}, "max_model_len (100000) is greater"
    yield "heads", {"tensor_parallel_size": 2}, {"general": None}, "attention heads (9) must be divisible"
    yield "nobody", {}, {}, "the engine serves no expert"
    yield "no adapter", {}, {"math": adapter.parent / "none"}, "it has no adapter_config.json"
    yield "memory", {"kv_cache_memory_bytes": 1 << 20}, {"general": None}, "No available memory for the cache blocks"
    yield "too much", {"kv_cache_memory_bytes": 1 << 50}, {"general": None}, "less than requested memory for kv"
    yield "rank", {"max_lora_rank": 1}, {"odd": adapter}, "the adapter of expert odd has rank 4, above max_lora_rank"


async def test_an_engine_that_cannot_start_says_why_in_one_line(adapter: Path) -> None:
    for name, arguments, serves, why in unstartable(adapter):
        with pytest.raises(EngineFailed) as failed:
            async with open_vllm_engine(VllmSettings(serves=serves, engine_args={**SMALL, **arguments})):
                pass
        assert why in str(failed.value), name
        assert "\n" not in str(failed.value), name
        assert processes() == [], name


async def test_a_start_that_is_given_up_leaves_no_process() -> None:
    async def start() -> None:
        async with open_vllm_engine(VllmSettings(serves={"general": None}, engine_args=SMALL)):
            pass

    starting = asyncio.create_task(start())
    await eventually(lambda: starting.done() or any("EngineCore" in p or "spawn_main" in p for p in processes()), 60)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)

    assert starting.cancelled()
    await eventually(lambda: processes() == [])
