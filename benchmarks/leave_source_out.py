"""How well does `lexical` do on sources that it has never seen? The protocol by which its settings were chosen.

    python -m benchmarks.leave_source_out --corpus train.jsonl --dev dev.jsonl [--set c=4,sources=0.5,...]...

The sources of a corpus are dealt to five folds, so that each fold holds back several sources of different domains at
once; a source that is most of the corpus is dealt by its subjects ("mmlu/law" and so on). Each fold is scored by
a layer that was fitted without its sources. Accuracy is the mean over sources, so that a large one does not drown the
others.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from router_svc.fitting.corpus import LabelledPrompt, read_prompts
from router_svc.fitting.judging import accuracy, confusion, expected_calibration_error, macro_recall
from router_svc.fitting.lexical import Settings, fit, without_options
from router_svc.strategies.lexical import Lexical

FOLDS = 5
LARGE = 0.3  # a source with more than this share of the corpus is dealt by its subjects
NAMES = {
    "c": "inverse_regularisation",
    "classes": "class_balance",
    "sources": "source_balance",
    "min_df": "min_df",
    "most": "most",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def folds_of(corpus: Sequence[LabelledPrompt]) -> NDArray[np.int64]:
    """Deal the sources, those of each domain in turn, to folds; returns each prompt's fold."""
    tops = Counter(line.source.partition("/")[0] for line in corpus)
    large = {top for top, count in tops.items() if count > LARGE * len(corpus)}

    def group(line: LabelledPrompt) -> str:
        top = line.source.partition("/")[0]
        return line.source if top in large else top

    domains: defaultdict[str, set[str]] = defaultdict(set)
    for line in corpus:
        domains[line.domain or ""].add(group(line))
    deal = random.Random(0)
    fold: dict[str, int] = {}
    for start, (_, groups) in enumerate(sorted(domains.items())):
        names = sorted(groups - fold.keys())
        deal.shuffle(names)
        fold |= {name: (start + at) % FOLDS for at, name in enumerate(names)}
    return np.array([fold[group(line)] for line in corpus])


def judged(corpus: Sequence[LabelledPrompt], dev: Sequence[LabelledPrompt], settings: Settings) -> dict[str, Any]:
    """Return figures on sources held back, and on `dev`, with and without the options of its questions."""
    folds = folds_of(corpus)
    hits = np.zeros(len(corpus), dtype=np.bool_)
    for fold in range(FOLDS):
        kept = [line for line, at in zip(corpus, folds, strict=True) if at != fold]
        layer = Lexical(fit(kept, replace(settings, held_back=1), sources=[]))
        back = np.flatnonzero(folds == fold)
        best = layer.scores([corpus[at].prompt for at in back]).argmax(axis=1)
        hits[back] = [layer.experts[column] == corpus[at].domain for column, at in zip(best, back, strict=True)]
    by_source: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    by_domain: defaultdict[str, list[bool]] = defaultdict(list)
    for line, hit in zip(corpus, hits.tolist(), strict=True):
        by_source[line.source.partition("/")[0], line.domain or ""].append(hit)
        by_domain[line.domain or ""].append(hit)
    layer = Lexical(fitted := fit(corpus, settings, sources=[]))
    labels = np.array([layer.experts.index(line.domain or "") for line in dev])
    scores = layer.scores([line.prompt for line in dev])
    bare = layer.scores([without_options(line.prompt) for line in dev])
    best = scores.argmax(axis=1)
    figures = {
        "unseen_sources": np.mean([np.mean(each) for each in by_source.values()]),
        "unseen_macro_recall": np.mean([np.mean(each) for each in by_domain.values()]),
        "dev": accuracy(best, labels),
        "dev_macro_recall": macro_recall(confusion(best, labels, len(layer.experts))),
        "dev_ece": expected_calibration_error(scores.max(axis=1), best == labels),
        "dev_without_options": accuracy(bare.argmax(axis=1), labels),
    }
    return {name: round(float(figure), 4) for name, figure in figures.items()} | {
        "features": len(fitted.words),
        "by_source": {f"{top}:{domain}": round(float(np.mean(each)), 2) for (top, domain), each in by_source.items()},
    }


@app.command()
def main(
    corpus: Annotated[Path, typer.Option(help="JSON Lines with `prompt`, `domain` and `source`.")],
    dev: Annotated[Path, typer.Option(help="Likewise: other prompts of the same sources.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help=f"Settings to try: KEY=NUMBER,..., of {', '.join(NAMES)}.")
    ] = None,
) -> None:
    """Print one JSON object for each set of settings."""
    lines, others = read_prompts(corpus), read_prompts(dev)
    for each in sets or [""]:
        pairs = [pair.split("=") for pair in each.split(",") if pair]
        changes: dict[str, Any] = {
            NAMES[key]: int(value) if key in ("min_df", "most") else float(value) for key, value in pairs
        }
        print(json.dumps({"settings": each} | judged(lines, others, Settings(**changes))), flush=True)


if __name__ == "__main__":
    app()
