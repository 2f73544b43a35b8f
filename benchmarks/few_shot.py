"""What is a handful of examples worth? Accuracy of the strategy `few_shot` against the number of examples per expert.

    python -m benchmarks.few_shot --corpus train.jsonl --prompts dev.jsonl [--artefact models/router/encoder] [--json]

Examples are drawn from one file, a few of each domain, and tried on another; each number is drawn anew several times.
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from router_svc.fitting.corpus import LabelledPrompt, read_prompts
from router_svc.fitting.judging import accuracy, confusion, expected_calibration_error, macro_recall
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.encoder import Encoder
from router_svc.strategies.few_shot import FewShot

EXAMPLES = 1, 4, 8, 16, 32
DRAWS = 10

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Known:
    """An encoder that looks up vectors made before."""

    def __init__(self, encoder: Encoder) -> None:
        self.generation = encoder.generation
        self._encoder = encoder
        self._made: dict[str, NDArray[np.float32]] = {}

    def vectors(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        for prompt in prompts:
            if prompt not in self._made:
                self._made[prompt] = self._encoder.vectors([prompt])[0]
        return np.stack([self._made[prompt] for prompt in prompts])


def drawn(corpus: list[LabelledPrompt], each: int, seed: int) -> dict[str, list[str]]:
    """Return `each` prompts of every domain."""
    of: defaultdict[str, list[str]] = defaultdict(list)
    for line in corpus:
        of[line.domain or ""].append(line.prompt)
    draw = random.Random(seed)
    return {domain: draw.sample(texts, each) for domain, texts in sorted(of.items())}


@app.command()
def main(
    corpus: Annotated[Path, typer.Option(help="JSON Lines with `prompt` and `domain`: examples are drawn from it.")],
    prompts: Annotated[Path, typer.Option(help="Likewise: they are tried on it.")],
    artefact: Annotated[Path, typer.Option(help="Folder of the encoder's artefact.")] = Path("models/router/encoder"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure few-shot routing over the domains of the corpus."""
    encoder = Known(Encoder(artefacts.load(artefact)))
    lines, tried = read_prompts(corpus), read_prompts(prompts)
    texts = [line.prompt for line in tried]
    found: dict[int, dict[str, float]] = {}
    for each in EXAMPLES:
        figures: defaultdict[str, list[float]] = defaultdict(list)
        for seed in range(DRAWS):
            few = FewShot(encoder, drawn(lines, each, seed))
            scores = few.scores(texts)
            labels = np.array([few.experts.index(line.domain or "") for line in tried])
            best = scores.argmax(axis=1)
            figures["accuracy"].append(accuracy(best, labels))
            figures["macro_recall"].append(macro_recall(confusion(best, labels, len(few.experts))))
            figures["ece"].append(expected_calibration_error(scores.max(axis=1), best == labels))
        found[each] = {name: round(mean(values), 4) for name, values in figures.items()}
        found[each]["accuracy_stdev"] = round(stdev(figures["accuracy"]), 4)
    if as_json:
        print(json.dumps({"artefact": encoder.generation, "draws": DRAWS, "examples": found}))
        return
    for each, row in found.items():
        print(f"{each:3} examples per domain: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))


if __name__ == "__main__":
    app()
