"""`python -m router_svc.evaluate`: a strategy and labelled prompts → how right, how sure, how fast."""

import json
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from rich.console import Console
from rich.table import Table

from router_svc.corpus import CorpusError, read_prompts
from router_svc.strategy import STRATEGIES, open_strategy
from router_svc.verdict import judge

SHIPPED = Path("models/router/clusters")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON Lines with `prompt`, `domain` and, where known, `source`.")],
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(STRATEGIES)}.")] = "clusters",
    artefact: Annotated[Path, typer.Option(help="Folder of the artefact.")] = SHIPPED,
    serve: Annotated[str, typer.Option(help="Experts of the fleet, with commas.")] = "general,math,coding,health",
    generalist: Annotated[str, typer.Option(help="Who answers a domain that no expert serves.")] = "general",
    pinned: Annotated[str | None, typer.Option(help="Strategy pinned: the expert. [default: the generalist]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Strategy random: where it starts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
) -> None:
    """Judge a routing strategy on labelled prompts."""
    served = [expert.strip() for expert in serve.split(",") if expert.strip()]
    try:
        labelled = read_prompts(prompts)
        if missing := sum(line.domain is None for line in labelled):
            raise CorpusError(f"{prompts}: {missing} of {len(labelled)} prompts have no 'domain' to compare with")
        opened = open_strategy(strategy, artefact=artefact, experts=served, pinned=pinned or generalist, seed=seed)
        report = judge(opened, labelled, serve=served, generalist=generalist)
    except ValueError as error:  # of the corpus, the artefact, the strategy or the served experts: each has its line
        _stop(str(error))
    if as_json:
        print(json.dumps(report))
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    console = Console()
    figures = Table("", "experts served", "domains", title=f"{report['strategy']} on {report['prompts']} prompts")
    for name in ("accuracy", "macro_recall", "ece"):
        figures.add_row(name.replace("_", " "), f"{report[name]:.4f}", f"{report[f'domain_{name}']:.4f}")
    console.print(figures)
    confusion = Table("label \\ chosen", *report["confusion"], "recall", title="Confusion")
    for label, row in report["confusion"].items():
        recall = f"{report['recall'][label]:.2f}" if label in report["recall"] else "–"
        confusion.add_row(label, *map(str, row.values()), recall)
    console.print(confusion)
    sources = Table("source", "prompts", "accuracy", title="By source")
    for source, found in report["per_source"].items():
        sources.add_row(source, str(found["prompts"]), f"{found['accuracy']:.2f}")
    console.print(sources)
    balance = report["balance"]
    shares = " ".join(f"{share:.1%}" for share in balance["shares"])
    console.print(f"Balance over {balance['of']}: largest {balance['max_over_mean']:.2f} times the mean ({shares})")
    if balance["without_cluster"]:
        console.print(f"Prompts without a known word, scored with the prior: {balance['without_cluster']}")
    alone, together = report["us_per_prompt"], report["us_per_prompt_batched"]
    console.print(
        f"Cost: {alone:.0f} µs for a prompt alone (median), {together:.0f} µs in a batch of {report['batch']}"
    )


def _stop(problem: str) -> Never:
    typer.echo(" ".join(problem.split()), err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
