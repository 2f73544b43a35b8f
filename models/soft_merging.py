"""Does a blend of the two best experts beat the better of them, where the router can hardly tell them apart?

SMEAR's idea (arXiv 2306.03745) as far as served adapters allow it: for a prompt whose two best scores are close, an
adapter made beforehand of the two, half and half, or by their scores in steps of a quarter (so that few blends need to
be kept). Measured by the perplexity of held-out reference answers, on the close prompts and on all of them, beside the
generalist, the routed expert and, of the two, the one that turns out better for each prompt, which no router can know.

Writes `soft_merging.json` and the table in `README.md`. Losses are kept in `.cache/`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment  # noqa: F401 - before torch
import numpy as np
import torch
from cards import put_table
from losses import Blend, Losses, blend_of
from numpy.typing import NDArray
from prepare import is_complete
from responses import BASE, Example, write_json
from specialisation import EXPERTS, Group, add_arguments, groups_and_router, judged

RESULT = Path(__file__).resolve().parent / "soft_merging.json"
MARKS = ("<!-- soft merging: written by soft_merging.py -->", "<!-- /soft merging -->")
STEP = 0.25  # of the weights by score
WAYS = ("generalist", "routed", "half and half", "by score", "better in hindsight")


@dataclass(frozen=True, slots=True)
class Close:
    """What a router says of one prompt, as far as blending is concerned."""

    first: str
    second: str
    margin: float  # best score less second-best, in [0, 1]
    share: float  # of the first in a blend by score: at least 0.5

    @property
    def ways(self) -> dict[str, Blend]:
        """The blend that answers, by way."""
        return {
            "generalist": blend_of(),
            "routed": mix(self.first, self.second, 1.0),
            "second": mix(self.first, self.second, 0.0),
            "half and half": mix(self.first, self.second, 0.5),
            "by score": mix(self.first, self.second, self.share),
        }


def mix(first: str, second: str, share: float) -> Blend:
    """`share` of the first and the rest of the second; the generalist is the base model, which any blend stands on."""
    return blend_of(**{n: weight for n, weight in ((first, share), (second, 1 - share)) if n != EXPERTS[0]})


def close(scores: NDArray[np.float32]) -> Close:
    """Read one row of scores over `EXPERTS`."""
    second, first = np.argsort(scores, kind="stable")[-2:]
    best, next_best = float(scores[first]), float(scores[second])
    share = max(0.5, round(best / (best + next_best) / STEP) * STEP)
    return Close(EXPERTS[first], EXPERTS[second], best - next_best, share)


def nats_by_way(losses: Losses, examples: Sequence[Example], said: Sequence[Close]) -> dict[str, NDArray[np.float64]]:
    """Nats of each answer under each way, shape (answers,), and the answers' `tokens`."""
    wanted: dict[Blend, list[int]] = defaultdict(list)
    for at, prompt in enumerate(said):
        for blend in set(prompt.ways.values()):
            wanted[blend].append(at)
    known: dict[tuple[Blend, int], tuple[float, int]] = {}
    for blend, places in wanted.items():
        sums = losses.of(blend, [examples[at] for at in places])
        known |= {(blend, at): found for at, found in zip(places, sums, strict=True)}
    nats = {
        way: np.array([known[prompt.ways[way], at][0] for at, prompt in enumerate(said)])
        for way in ("generalist", "routed", "second", "half and half", "by score")
    }
    nats["better in hindsight"] = np.minimum(nats["routed"], nats.pop("second"))
    return nats | {"tokens": np.array([known[blend_of(), at][1] for at in range(len(said))], dtype=np.float64)}


def compared(nats: Mapping[str, NDArray[np.float64]], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Perplexity of each way on the chosen answers, its ratio to the routed expert's, and where it beats both."""
    tokens = nats["tokens"][chosen]
    ways = {way: nats[way][chosen] for way in WAYS}
    found: dict[str, Any] = {"answers": len(tokens), "tokens": int(tokens.sum())}
    found["ways"] = judged(ways, tokens, beside="routed")
    found["beats_the_better"] = {
        way: round(float(np.mean(ways[way] < ways["better in hindsight"])), 3) for way in ("half and half", "by score")
    }
    return found


def measure(groups: Mapping[str, Group], router: Any, losses: Losses, margin: float) -> dict[str, Any]:
    """Close prompts, rightly and wrongly routed ones, and all, compared over all groups; close ones by group."""
    parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    margins: list[float] = []
    right: list[bool] = []
    counts = {}
    for name, group in groups.items():
        said = [close(row) for row in router.scores(group.pairs)]
        for way, nats in nats_by_way(losses, group.examples, said).items():
            parts[way].append(nats)
        margins += [prompt.margin for prompt in said]
        right += [prompt.first == group.expert for prompt in said]
        counts[name] = sum(prompt.margin < margin for prompt in said)
    nats = {way: np.concatenate(arrays) for way, arrays in parts.items()}
    near, found_it = np.array(margins) < margin, np.array(right)
    chosen = {"close": near, "right": found_it, "wrong": ~found_it, "all": np.ones(len(near), dtype=bool)}
    return {"close_by_group": counts} | {name: compared(nats, of) for name, of in chosen.items() if of.any()}


def table(found: Mapping[str, Any]) -> str:
    """The measurement as a markdown table and a sentence on how it was made."""
    lines = [
        "| prompts | answers | " + " | ".join(WAYS) + " |",
        "| --- | ---: |" + " ---: |" * len(WAYS),
    ]
    titles = {
        "close": f"margin below {found['margin']:g}",
        "right": "routed right",
        "wrong": "routed wrong",
        "all": "all",
    }
    for name, title in titles.items():
        if of := found.get(name):
            cells = []
            for way in WAYS:
                figures = of["ways"][way]
                low, high = (100 * (end - 1) for end in figures["ratio_95"])
                cells.append(
                    f"{figures['perplexity']:.2f}" + ("" if way == "routed" else f" ({low:+.1f} to {high:+.1f} %)")
                )
            lines.append(f"| {title} | {of['answers']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + (
        "\n\nPerplexity of reference answers that trained nobody, lower is better, with the middle 95 % of its change "
        f"from the routed expert's over paired resamplings. Routed by `{found['strategy']}`."
    )


def main() -> int:
    """Run from the command line; 1 when the base model is missing."""
    parser = argparse.ArgumentParser(prog="models/soft_merging.py", description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--margin", type=float, default=0.3, help="what counts as close (default: 0.3)")
    options = parser.parse_args()
    if not is_complete(BASE):
        print("the base model is missing: python models/prepare.py", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    groups, router = groups_and_router(options, options.pairs)
    found = {"strategy": router.strategy.name, "artefact": router.strategy.generation, "margin": options.margin}
    found |= measure(groups, router, Losses(), options.margin)
    write_json(RESULT, found)
    put_table(RESULT.with_name("README.md"), MARKS, table(found))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
