"""What is compared: configurations of expert models, each a mesh of its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.characterise.foretelling import foretold
from benchmarks.characterise.profile import load

ROOT = Path(__file__).parents[2]
EXPERTS = ("general", "math", "coding", "health")
BASE, INT8 = ROOT / "models/base/smollm2-135m-instruct", ROOT / "models/base/smollm2-135m-instruct-int8"
EVENLY = {"math": 0.25, "coding": 0.25, "health": 0.25}  # of the prompts; the others' domains are the generalist's
PLENTY = 20_000  # requests let in: what is too much waits, and is not refused
NEVER_MS = 1e9
# By content alone, as in the paper: no expert steps in for another, no conversation stays anywhere.
CONTENT = {"affinity_ms": 0, "spill_ms_per_point": None, "sibling_ms": NEVER_MS}
SIMULATED_PROMPT_WORDS, SIMULATED_PROMPT_MEAN, SIMULATED_OUTPUT = "lognormal:100,0.4", 110, 64
REAL_OUTPUT = 8
LADDER = (1, 10, 50, 100, 200, 500, 1000)
FEWER, SHORT = (10, 100, 500, 1000), (1, 10, 50, 100, 200)

Kind = Literal["real", "simulated"]
Role = Literal["experts", "baseline", "control", "hop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine of a mesh, a process of its own."""

    name: str
    serves: Mapping[str, str | None]  # expert -> adapter's folder; None: the model itself
    profile: str = ""  # of `profiles`, for a simulated one
    vllm: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A mesh, and what is asked of it."""

    key: str  # unique; names its results' files
    title: str
    kind: Kind
    role: Role  # `baseline`: one model over everything; `control`: random routing; `hop`: for what routing costs
    model: str
    precision: str
    gpus: str  # how the hardware is used, for the table
    large: bool  # a model of many parameters, in the paper's words
    engines: Sequence[Engine]
    router: Mapping[str, Any]
    speed: float = 1.0  # simulated seconds in a second; below 1, since this machine's cores carry fewer tokens
    ladder: Sequence[int] = LADDER
    skew: Mapping[str, float] = field(default_factory=lambda: dict(EVENLY))
    output_tokens: int = SIMULATED_OUTPUT
    prompt_words: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # of its processes
    direct: bool = False  # also measured without the router, the engine being asked itself
    compared_with: str = ""  # for a control: the configuration that differs in nothing else
    weights_gb: float = 0.0  # of one engine
    kv_tokens: int = 0  # room of one engine's cache
    derived: bool = False  # simulated by a profile that no measurement holds

    def told(self) -> dict[str, Any]:
        """Return all that a result depends on, as JSON's types, and nothing of how it is presented."""
        told: dict[str, Any] = {name: getattr(self, name) for name in MATTERS}
        told["engines"] = [
            {name: value for name, value in asdict(engine).items() if value or name != "environment"}
            | ({"simulated": load(engine.profile).simulation.model_dump(mode="json")} if engine.profile else {})
            for engine in self.engines
        ]
        whole: dict[str, Any] = json.loads(json.dumps(told, default=dict).replace(f"{ROOT}/", ""))
        return whole


MATTERS = ("kind", "router", "speed", "skew", "output_tokens", "prompt_words", "environment")


def simulated(tokens_per_s: float) -> list[Configuration]:
    """Return the configurations on a node of eight simulated H100.

    Args:
        tokens_per_s: that this machine's processors carry through client, router and engines; a simulation that gives
            more in its own time is slowed down to that.
    """
    cascade = {"strategy": "cascade", "artefact": str(ROOT / "models/router/cascade"), **CONTENT}
    one = {"strategy": "pinned", "pinned": "general", **CONTENT}

    def made(key: str, title: str, profile: str, engines: Sequence[Sequence[str]], **more: Any) -> Configuration:
        told = load(profile)
        most = foretold(
            told.simulation,
            users=-(-max(LADDER) // len(engines)),
            prompt_tokens=SIMULATED_PROMPT_MEAN,
            output_tokens=SIMULATED_OUTPUT,
        )
        speed = min(1.0, float(f"{tokens_per_s / (most.tokens_per_s * len(engines)):.2g}"))
        return Configuration(
            **{
                "key": key,
                "title": title,
                "kind": "simulated",
                "role": "experts",
                "model": told.model,
                "precision": told.precision,
                "gpus": f"{len(engines)} × TP {told.gpus}" if told.gpus > 1 else f"{len(engines)} × 1 GPU",
                "large": "70B" in told.model,
                "engines": [
                    Engine(name=f"{'-'.join(names)}-{at}", serves=dict.fromkeys(names), profile=profile)
                    for at, names in enumerate(engines)
                ],
                "router": cascade,
                "speed": speed,
                "prompt_words": SIMULATED_PROMPT_WORDS,
                "weights_gb": told.weights_gb,
                "kv_tokens": told.simulation.kv_capacity_tokens,
                "derived": told.kind == "derived",
                **more,
            }
        )

    one_each = [[name] for name in EXPERTS for _ in range(2)]
    pairs, alone = [["general", "math"], ["coding", "health"]], [["general"]]
    b16, fp8 = "llama3-8b-16bit-tp1", "llama3-8b-fp8-tp1"
    random = {"router": {"strategy": "random", **CONTENT}, "role": "control", "compared_with": "8b-16bit"}
    rivals = {"role": "baseline", "router": one}
    return [
        made("hop", "one expert, in real time", "llama3-70b-fp8-tp4", alone, role="hop", speed=1.0, direct=True),
        made("8b-16bit", "8 × 8B 16-bit, one per GPU", b16, one_each),
        made("70b-16bit-tp8", "one 70B 16-bit, TP 8", "llama3-70b-16bit-tp8", alone, **rivals),
        made("70b-fp8-tp4", "2 × 70B FP8, TP 4", "llama3-70b-fp8-tp4", pairs),
        made("8b-fp8", "8 × 8B FP8, one per GPU", fp8, one_each),
        made("70b-fp8-tp8", "one 70B FP8, TP 8", "llama3-70b-fp8-tp8", alone, **rivals),
        made("8b-random", "8 × 8B 16-bit, routed at random", b16, one_each, **random),
        made("70b-int4", "8 × 70B INT4, one per GPU (derived)", "llama3-70b-int4-tp1", one_each),
        made("8b-16bit-tp2", "4 × 8B 16-bit, TP 2", "llama3-8b-16bit-tp2", [[name] for name in EXPERTS], ladder=FEWER),
        made("8b-skewed", "8 × 8B 16-bit, 60 % for one expert", b16, one_each, skew={"math": 0.6}, ladder=FEWER),
    ]


def real() -> list[Configuration]:
    """Return the configurations of real vLLM engines on this machine's processors."""
    common = {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_memory_bytes": 536_870_912, "enforce_eager": True}
    bf16 = {"model": str(BASE), "dtype": "bfloat16", **common}
    int8 = {**bf16, "model": str(INT8)}
    adapters: dict[str, str | None] = {name: str(ROOT / "models/adapters" / name) for name in EXPERTS[1:]}
    halves = ({"general": None, "math": adapters["math"]}, {name: adapters[name] for name in ("coding", "health")})
    cascade = {"strategy": "cascade", "artefact": str(ROOT / "models/router/cascade"), **CONTENT}
    kv_tokens = common["kv_cache_memory_bytes"] // (2 * 30 * 3 * 64 * 2)  # 30 layers, 3 KV heads of 64, 2 bytes

    def made(key: str, title: str, engines: Sequence[Engine], **more: Any) -> Configuration:
        return Configuration(
            **{
                "key": key,
                "title": title,
                "kind": "real",
                "role": "experts",
                "model": "SmolLM2 135M",
                "precision": "bf16",
                "gpus": f"{len(engines)} engine{'s' * (len(engines) > 1)}, CPU",
                "large": False,
                "engines": engines,
                "router": cascade,
                "output_tokens": REAL_OUTPUT,
                "weights_gb": 0.27,
                "kv_tokens": kv_tokens,
                **more,
            }
        )

    alone = [Engine(name="alone", serves={"general": None}, vllm=bf16)]
    one = [Engine(name="one", serves={"general": None, **adapters}, vllm=bf16)]
    # A core for each: left alone, both take both, and each waits for threads that the other keeps from running.
    two = [
        Engine(name=f"half-{at}", serves=serves, vllm=bf16, environment={"VLLM_CPU_OMP_THREADS_BIND": str(at)})
        for at, serves in enumerate(halves)
    ]
    lower = [replace(each, vllm=int8) for each in two]
    three = [Engine(name="tp", serves={"general": None}, vllm={**bf16, "tensor_parallel_size": 3})]
    parallel = {
        "role": "baseline",
        "gpus": "TP 3, CPU",
        "router": {"strategy": "pinned", "pinned": "general", **CONTENT},
        "environment": {"VLLM_CPU_OMP_THREADS_BIND": "0|1|0"},  # three workers on two cores
    }
    control = {"role": "control", "compared_with": "cpu-two", "router": {"strategy": "random", **CONTENT}}
    return [
        made("cpu-hop", "one expert, bf16", alone, role="hop", ladder=SHORT, direct=True),
        made("cpu-one", "one engine, 3 adapters, bf16", one),
        made("cpu-two", "two engines, 3 adapters, bf16", two),
        made("cpu-two-int8", "two engines, 3 adapters, int8", lower, precision="int8", weights_gb=0.16, ladder=SHORT),
        made("cpu-tp3", "one model, TP 3, bf16", three, ladder=SHORT, **parallel),
        made("cpu-random", "two engines, routed at random, bf16", two, ladder=SHORT[1:], **control),
    ]
