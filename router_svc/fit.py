"""`python -m router_svc.fit`: a corpus of prompts → the artefact of the strategy `clusters`."""

import hashlib
from pathlib import Path
from typing import Annotated, Never

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from router_svc import artefact as artefacts
from router_svc import recipe
from router_svc.artefact import Artefact, Json
from router_svc.corpus import CorpusError, LabelledPrompt, read_prompts

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    corpus: Annotated[
        list[Path], typer.Option(help="JSON Lines with `prompt` and, where known, `domain`; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the artefact; written over.")] = Path("router-artefact"),
    clusters: Annotated[int, typer.Option(min=1, help="How many clusters.")] = 16,
    components: Annotated[int, typer.Option(min=1, help="Dimensions kept by the SVD; fewer in a small corpus.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random draw.")] = 0,
    min_df: Annotated[
        int | None, typer.Option(min=1, help="Prompts that a word must occur in. [default: 3; 1 under 5,000 prompts]")
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="K-means runs, the best of which is kept.")] = 30,
    by_hand: Annotated[
        list[str] | None,
        typer.Option("--map", help="CLUSTER=EXPERT, such as 0=coding; repeatable, goes before labels."),
    ] = None,
) -> None:
    """Fit the clusters of a corpus and map them to experts."""
    settings = recipe.Settings(clusters=clusters, components=components, min_df=min_df, seed=seed, starts=starts)
    try:
        mapping = dict(_pair(pair) for pair in by_hand or [])
        prompts, sources = _read(corpus)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("counting words", total=None)
            fitted = recipe.fit(
                prompts,
                settings,
                by_hand=mapping,
                sources=sources,
                progress=lambda step, done, of: bar.update(task, description=step, completed=done, total=of),
            )
        name = artefacts.save(out, fitted)
    except (CorpusError, recipe.FitError) as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{out}: cannot be written: {error.strerror or error}")
    _show(fitted)
    if fitted.settings["components"] < components:
        print(f"The corpus is small: {fitted.settings['components']} components instead of {components}.")
    print(f"{out}: artefact {name}, {len(prompts)} prompts, {len(fitted.words)} words, {clusters} clusters.")
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


def _show(fitted: Artefact) -> None:
    """Print the clusters: size, expert, telling words."""
    table = Table("cluster", "prompts", "expert", "share", "telling words", title="Clusters")
    for number, cluster in enumerate(fitted.mapping["clusters"]):
        share = f"{cluster['share']:.2f}" if "share" in cluster else "–"
        words = " ".join(cluster["words"])
        table.add_row(str(number), str(cluster["prompts"]), cluster.get("expert", "–"), share, words)
    Console().print(table)


def _stop(problem: str) -> Never:
    typer.echo(problem, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
