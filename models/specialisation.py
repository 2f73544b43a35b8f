"""Does specialisation pay? Reference answers under four ways to choose who answers, on pairs that trained nobody.

Perplexity of the reference answers when every prompt goes to the generalist, to the expert that the router chooses, to
the expert of the pair's true domain (oracle), or to any of the experts with equal chance (random, in expectation).
Then, for mathematics, the share of word problems whose answer's number is right, generated greedily in vLLM.

Writes `specialisation.json` and the table in `README.md`. Losses are kept in `.cache/`, so that another strategy takes
seconds. The router's strategy, artefact and threshold are those of `mesh.yaml` unless given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from cards import put_table
from held_out import EXPERT_OF, held_out, prompts_in
from losses import Losses, Sums, blend_of
from numpy.typing import NDArray
from pairs import DEFAULT_FINETUNE, Pair, load_split, sample
from prepare import is_complete
from responses import ADAPTERS, BASE, Example, encode_short, load_tokenizer, write_json
from word_problems import solved

from mesh_wire import mesh_file
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import fold

EXPERTS = ("general", "math", "coding", "health")
RESULT = Path(__file__).resolve().parent / "specialisation.json"
MARKS = ("<!-- specialisation: written by specialisation.py -->", "<!-- /specialisation -->")
WAYS = ("generalist", "routed", "oracle", "random")
RESAMPLES = 2000
SEED = 2404
TITLES = {
    "math": "math: GSM8K",
    "coding": "coding: standard library",
    "packages": "coding: installed packages",
    "health": "health: PubMedQA",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of one source, as text and as tokens."""

    expert: str  # who was trained for them
    pairs: tuple[Pair, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Router:
    """How prompts are routed in this measurement."""

    strategy: Any
    threshold: float

    def scores(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Scores over `EXPERTS`, shape (pairs, 4)."""
        found = self.strategy.scores([pair.prompt for pair in pairs])
        return fold(found, self.strategy.experts, serve=EXPERTS, generalist=EXPERTS[0])

    def choices(self, pairs: Sequence[Pair]) -> list[str]:
        """The expert of each prompt: the best, or the generalist where the best is below the threshold."""
        scores = self.scores(pairs)
        return [
            EXPERTS[int(row.argmax())] if float(row.max()) >= self.threshold else EXPERTS[0] for row in scores
        ]  # fmt: skip


def read_groups(finetune: Path, corpora: Sequence[Path], count: int) -> dict[str, Group]:
    """The held-out pairs of each group, at most `count`, of at most `MAX_TOKENS` tokens each."""
    tokenizer = load_tokenizer()
    elsewhere = prompts_in(corpora)
    groups = {}
    for name, expert in EXPERT_OF.items():
        recipe = json.loads((ADAPTERS / expert / "training.json").read_text(encoding="utf-8"))["recipe"]
        trained = sample(load_split(expert, finetune).train, recipe["pairs"])
        found = held_out(name, finetune, trained=trained, elsewhere=elsewhere, count=2 * count)
        short = [(pair, e) for pair in found for e in encode_short(tokenizer, [pair])][:count]
        groups[name] = Group(expert, tuple(pair for pair, _ in short), tuple(example for _, example in short))
    return groups


def by_way(losses: Mapping[str, Sums], group: Group, choices: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Nats of each answer under each of `WAYS`, shape (answers,)."""
    nats = {expert: np.array([nats for nats, _ in sums]) for expert, sums in losses.items()}
    return {
        "generalist": nats["general"],
        "routed": np.array([nats[choice][at] for at, choice in enumerate(choices)]),
        "oracle": nats[group.expert],
        "random": np.mean([nats[expert] for expert in EXPERTS], axis=0),
    }


def judged(
    ways: Mapping[str, NDArray[np.float64]], tokens: NDArray[np.float64], *, beside: str = "generalist"
) -> dict[str, Any]:
    """Perplexity of each way, and its ratio to one way's with the middle 95 % of paired resamplings.

    Args:
        ways: nats of each answer, shape (answers,).
        tokens: of each answer, shape (answers,).
        beside: the way that ratios are to.
    """
    drawn = np.random.default_rng(SEED).integers(0, len(tokens), size=(RESAMPLES, len(tokens)))
    mean = {way: nats.sum() / tokens.sum() for way, nats in ways.items()}
    means = {way: nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1) for way, nats in ways.items()}
    return {
        way: {
            "perplexity": round(float(np.exp(mean[way])), 3),
            "ratio": round(float(np.exp(mean[way] - mean[beside])), 4),
            "ratio_95": [
                round(float(end), 4)
                for end in np.exp(np.quantile(means[way] - means[beside], (0.025, 0.975)))
            ],
        }
        for way in ways
    }  # fmt: skip


def measure(groups: Mapping[str, Group], router: Router, losses: Losses) -> dict[str, Any]:
    """Group → answers, tokens, routed accuracy and every way's perplexity."""
    found = {}
    for name, group in groups.items():
        of = {e: losses.of(blend_of(**({} if e == "general" else {e: 1.0})), group.examples) for e in EXPERTS}
        tokens = np.array([tokens for _, tokens in of["general"]], dtype=np.float64)
        choices = router.choices(group.pairs)
        found[name] = {
            "answers": len(group.pairs),
            "tokens": int(tokens.sum()),
            "routed_right": round(float(np.mean([choice == group.expert for choice in choices])), 4),
            "ways": judged(by_way(of, group, choices), tokens),
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The measurement as a markdown table and a sentence on how it was made."""
    lines = [
        "| reference answers | answers | routed right | " + " | ".join(WAYS) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(WAYS),
    ]
    for name, of in found["groups"].items():
        cells = []
        for way in WAYS:
            figures = of["ways"][way]
            low, high = (100 * (end - 1) for end in figures["ratio_95"])
            change = "" if way == "generalist" else f" ({low:+.0f} to {high:+.0f} %)"
            cells.append(f"{figures['perplexity']:.2f}{change}")
        lines.append(f"| {TITLES[name]} | {of['answers']} | {of['routed_right']:.2f} | " + " | ".join(cells) + " |")
    if right := found.get("word_problems"):
        cells = [f"{right['right'][way]:.1f} ({100 * right['right'][way] / right['questions']:.1f} %)" for way in WAYS]
        lines.append(
            f"| GSM8K problems right | {right['questions']} | {right['routed_right']:.2f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + (
        "\n\nPerplexity of reference answers, lower is better, with the middle 95 % of its change from the "
        f"generalist's over {RESAMPLES:,} paired resamplings; last row: problems solved, higher is better. Pairs that "
        "neither an adapter nor the router was trained on. Random: the expectation over the four experts. "
        f"Routed by `{found['strategy']}`, threshold {found['threshold']:g}."
    )


def opened_router(config: Path, strategy: str | None, artefact: Path | None) -> Router:
    """The router of the mesh file, or another strategy."""
    section = mesh_file.read(config).router
    name = strategy or section.strategy
    opened = open_strategy(
        name, artefact=artefact or section.artefact, experts=EXPERTS, pinned=section.pinned or EXPERTS[0], seed=SEED
    )
    return Router(opened, section.threshold)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every measurement on held-out pairs can be told."""
    parser.add_argument("--finetune", type=Path, default=DEFAULT_FINETUNE, help="folder of math.jsonl and health.jsonl")
    parser.add_argument("--corpus", type=Path, nargs="*", help="what routers were fitted or tuned on: left out")
    parser.add_argument("--config", type=Path, default=Path("mesh.yaml"), help="mesh file (default: mesh.yaml)")
    parser.add_argument("--strategy", help="the router's (default: the mesh file's)")
    parser.add_argument("--artefact", type=Path, help="its folder (default: the mesh file's)")
    parser.add_argument("--pairs", type=int, default=100, help="of each group, at most (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")


def groups_and_router(options: argparse.Namespace, count: int) -> tuple[dict[str, Group], Router]:
    """What the arguments ask for: at most `count` pairs of each group, and the router."""
    # A cascade's margin was chosen on dev.jsonl.
    corpora = options.corpus or [options.finetune.parent / "prompts" / name for name in ("train.jsonl", "dev.jsonl")]
    router = opened_router(options.config, options.strategy, options.artefact)
    return read_groups(options.finetune, corpora, count), router


def word_problems(questions: Sequence[Pair], router: Router) -> dict[str, Any]:
    """How many of the questions each way gets right."""
    right = {expert: np.array(flags) for expert, flags in solved(questions, EXPERTS).items()}
    choices = router.choices(questions)
    return {
        "questions": len(questions),
        "routed_right": round(float(np.mean([choice == "math" for choice in choices])), 4),
        "right": {
            "generalist": int(right["general"].sum()),
            "routed": sum(int(right[choice][at]) for at, choice in enumerate(choices)),
            "oracle": int(right["math"].sum()),
            "random": round(float(np.mean([flags.sum() for flags in right.values()])), 2),
        },
    }


def main() -> int:
    """Run from the command line; 1 when the base model is missing."""
    parser = argparse.ArgumentParser(prog="models/specialisation.py", description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--questions", type=int, default=200, help="word problems to solve (default: 200; 0: none)")
    options = parser.parse_args()
    if not is_complete(BASE):
        print("the base model is missing: python models/prepare.py", file=sys.stderr)
        return 1

    torch.set_num_threads(options.threads)
    groups, router = groups_and_router(options, max(options.pairs, options.questions))
    found: dict[str, Any] = {
        "strategy": router.strategy.name,
        "artefact": router.strategy.generation,
        "threshold": router.threshold,
    }
    few = {
        name: Group(group.expert, group.pairs[: options.pairs], group.examples[: options.pairs])
        for name, group in groups.items()
    }
    found["groups"] = measure(few, router, Losses())
    if options.questions:
        found["word_problems"] = word_problems(groups["math"].pairs[: options.questions], router)
    write_json(RESULT, found)
    put_table(RESULT.with_name("README.md"), MARKS, table(found))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
