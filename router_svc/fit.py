"""`python -m router_svc.fit`: a corpus of prompts → the artefact of a strategy."""

import hashlib
from pathlib import Path
from typing import Annotated, Never

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from router_svc.fitting import cascade as cascade_fit
from router_svc.fitting import lexical as lexical_fit
from router_svc.fitting import recipe
from router_svc.fitting.corpus import CorpusError, LabelledPrompt, read_prompts
from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError, Json
from router_svc.strategies.vectoriser import Vectoriser

FITTABLE = ("clusters", "lexical", "cascade")
NEAREST, SHOWN = 3, 100  # prompts shown of each cluster, and characters of each

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    corpus: Annotated[
        list[Path], typer.Option(help="JSON Lines with `prompt` and, where known, `domain`; repeatable.")
    ],
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(FITTABLE)}.")] = "clusters",
    out: Annotated[Path, typer.Option(help="Folder of the artefact; written over.")] = Path("router-artefact"),
    clusters: Annotated[int, typer.Option(min=1, help="Clusters: how many.")] = 16,
    components: Annotated[int, typer.Option(min=1, help="Clusters: dimensions kept by the SVD.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random draw.")] = 0,
    min_df: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts that a word must occur in. [default: 3; 1 under 5,000 prompts]"),
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="Clusters: k-means runs, the best of which is kept.")] = 30,
    by_hand: Annotated[
        list[str] | None,
        typer.Option("--map", help="Clusters: CLUSTER=EXPERT, such as 0=coding; repeatable, goes before labels."),
    ] = None,
    lexical: Annotated[Path, typer.Option(help="Cascade: folder of the first.")] = Path("models/router/lexical"),
    encoder: Annotated[Path, typer.Option(help="Cascade: folder of the second.")] = Path("models/router/encoder"),
    loss: Annotated[
        float, typer.Option(min=0, max=1, help="Cascade: share of right answers that speed may cost.")
    ] = 0.005,
    asks: Annotated[
        float, typer.Option(min=0, max=1, help="Cascade: share of prompts that the encoder may be asked about.")
    ] = 0.2,
    weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cascade: of the encoder's scores. [default: 0.5, or 1 where that is better]"),
    ] = None,
) -> None:
    """Fit a strategy: `clusters` from any corpus, `lexical` from a labelled one, `cascade` from a labelled one that the
    two artefacts which it joins were not fitted on."""
    try:
        if strategy not in FITTABLE:
            raise recipe.FitError(f"cannot fit strategy {strategy!r}; there are {', '.join(FITTABLE)}")
        mapping = dict(_pair(pair) for pair in by_hand or [])
        prompts, sources = _read(corpus)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("reading", total=None)

            def progress(step: str, done: int, of: int) -> None:
                bar.update(task, description=step, completed=done, total=of)

            if strategy == "clusters":
                settings = recipe.Settings(
                    clusters=clusters, components=components, min_df=min_df, seed=seed, starts=starts
                )
                fitted = recipe.fit(prompts, settings, by_hand=mapping, sources=sources, progress=progress)
            elif strategy == "lexical":
                fitted = lexical_fit.fit(
                    prompts, lexical_fit.Settings(min_df=min_df, seed=seed), sources=sources, progress=progress
                )
            else:
                fitted = cascade_fit.fit(
                    prompts,
                    lexical=lexical,
                    encoder=encoder,
                    out=out,
                    loss=loss,
                    asks=asks,
                    weight=weight,
                    sources=sources,
                    progress=progress,
                )
        name = artefacts.save(out, fitted)
    except (CorpusError, recipe.FitError, ArtefactError) as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{out}: cannot be written: {error.strerror or error}")
    if strategy == "clusters":
        _show_clusters(fitted, prompts)
        if fitted.settings["components"] < components:
            print(f"The corpus is small: {fitted.settings['components']} components instead of {components}.")
    elif strategy == "cascade":
        _show_curve(fitted)
    print(f"{out}: artefact {name} of strategy {strategy}, {len(prompts)} prompts, {len(fitted.words)} words.")
    if not fitted.experts:
        _stop(
            "No prompt has a domain, so no cluster has an expert: run this again with --map 0=EXPERT for each cluster."
        )


def _pair(pair: str) -> tuple[int, str]:
    cluster, _, expert = pair.partition("=")
    if not cluster.strip().isdecimal() or not expert.strip():
        raise recipe.FitError(f"--map {pair}: write it as CLUSTER=EXPERT, such as 0=coding")
    return int(cluster), expert.strip()


def _read(corpus: list[Path]) -> tuple[list[LabelledPrompt], list[Json]]:
    """Return the prompts of all files, and what the artefact says of each file."""
    prompts: list[LabelledPrompt] = []
    sources: list[Json] = []
    for path in corpus:
        found = read_prompts(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sources.append({"file": path.name, "sha256": digest, "prompts": len(found)})
        prompts += found
    return prompts, sources


def nearest_prompts(fitted: Artefact, prompts: list[LabelledPrompt], how_many: int) -> list[list[str]]:
    """Return each cluster's prompts that are nearest to its centre, the nearest first. The artefact keeps none."""
    points = Vectoriser(fitted.words, fitted.tensors["word_vectors"]).transform([line.prompt for line in prompts])
    centres = fitted.tensors["centres"]
    towards = points @ centres.T - 0.5 * np.square(centres).sum(axis=1)
    strangers = towards.argmax(axis=1)[:, None] != np.arange(len(centres))
    wordless = ~points.any(axis=1, keepdims=True)
    towards[np.logical_or(strangers, wordless)] = -np.inf
    order = np.argsort(-towards, axis=0, kind="stable")[:how_many]
    return [
        [prompts[at].prompt for at in column if np.isfinite(towards[at, place])] for place, column in enumerate(order.T)
    ]


def _show_clusters(fitted: Artefact, prompts: list[LabelledPrompt]) -> None:
    """Print the clusters: size, expert, telling words, nearest prompts."""
    nearest = nearest_prompts(fitted, prompts, NEAREST)
    table = Table("cluster", "prompts", "expert", "share", "telling words and nearest prompts", title="Clusters")
    for number, cluster in enumerate(fitted.mapping["clusters"]):
        share = f"{cluster['share']:.2f}" if "share" in cluster else "–"
        lines = [" ".join(cluster["words"]), *(f"· {' '.join(text.split())[:SHOWN]}" for text in nearest[number])]
        expert = cluster.get("expert", "–")
        table.add_row(str(number), str(cluster["prompts"]), expert, share, escape("\n".join(lines)), end_section=True)
    Console().print(table)


def _show_curve(fitted: Artefact) -> None:
    """Print what margins cost and bring."""
    table = Table("margin", "asks the encoder", "accuracy", title="Cascade")
    for point in fitted.mapping["curve"]:
        table.add_row(f"{point['margin']:.2f}", f"{point['asked']:.1%}", f"{point['accuracy']:.4f}")
    Console().print(table)
    print(f"Margin {fitted.settings['margin']:.2f}; weight of the encoder {fitted.settings['encoder_weight']:.2f}.")


def _stop(problem: str) -> Never:
    typer.echo(problem, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
