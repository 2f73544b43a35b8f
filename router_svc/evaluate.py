"""`python -m router_svc.evaluate`: strategies and labelled prompts → how right, how sure, how fast; also drawn."""

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import Annotated, Any, Never

import typer
from rich.console import Console
from rich.progress import Progress

from router_svc.evaluation.compare import ALL, DEFAULT, KEYS, folder_of, plan
from router_svc.evaluation.curve import Point, learning_curve
from router_svc.evaluation.plane import plane
from router_svc.evaluation.show import show, show_compared, show_curve
from router_svc.evaluation.verdict import attempt
from router_svc.evaluation.verdict import report as report_of
from router_svc.fitting.corpus import CorpusError, LabelledPrompt, read_prompts
from router_svc.strategies.artefact import load
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import STRATEGIES, Strategy

SHIPPED = Path("models/router")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON Lines with `prompt`, `domain` and, where known, `source`.")],
    strategy: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(STRATEGIES)}. [default: the artefact's, the first to compare, {DEFAULT}]",
            show_default=False,
        ),
    ] = None,
    artefact: Annotated[
        Path | None, typer.Option(help="Folder of its artefact. [default: ARTEFACTS/STRATEGY]", show_default=False)
    ] = None,
    artefacts: Annotated[Path, typer.Option(help="Folder with a folder for each strategy's artefact.")] = SHIPPED,
    compare: Annotated[
        list[str] | None,
        typer.Option(help=f"Strategies side by side, with commas or repeated; `{ALL}`: every one, controls included."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for PNGs and report.html; draws the cost of all strategies, too.")
    ] = None,
    curve_from: Annotated[
        Path | None,
        typer.Option("--learning-curve", help="JSON Lines that `lexical` is fitted on in growing shares."),
    ] = None,
    target: Annotated[
        float | None, typer.Option(min=0, max=1, help="Accuracy that is wanted: a line in the plots.")
    ] = None,
    serve: Annotated[str, typer.Option(help="Experts of the fleet, with commas.")] = "general,math,coding,health",
    generalist: Annotated[str, typer.Option(help="Who answers a domain that no expert serves.")] = "general",
    pinned: Annotated[str | None, typer.Option(help="Strategy pinned: the expert. [default: the generalist]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Strategy random: where it starts.")] = 0,
    examples: Annotated[
        Path | None, typer.Option(help="Strategy few_shot: JSON Lines with `prompt` and `domain`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
) -> None:
    """Judge routing strategies on labelled prompts."""
    served = [expert.strip() for expert in serve.split(",") if expert.strip()]
    try:
        if artefact and not strategy:
            strategy = load(artefact).strategy
        first, names, unasked = plan(strategy, compare or [], cost_of_all=plots is not None)
        labelled = _labelled(prompts)
        corpus = read_prompts(curve_from) if curve_from else []
        shots = _examples(examples)
        folders = {name: folder_of(name, artefacts) for name in names}
        if artefact:
            folders[first] = artefact
        drawing = _drawing(plots) if plots else None
        if curve_from:
            _needed("router_svc.fitting.lexical", "--learning-curve")
        opened: dict[str, Strategy] = {}
        for name in names:
            try:
                opened[name] = open_strategy(
                    name, artefact=folders[name], experts=served, pinned=pinned or generalist, seed=seed, examples=shots
                )
            except ValueError as error:
                if name not in unasked:
                    raise
                typer.echo(f"left out {name}: {error}", err=True)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("opening", total=None)

            def progress(step: str, done: int, of: int) -> None:
                bar.update(task, description=step, completed=done, total=of)

            # Before the trials: whatever is wrong with the corpus shows soon.
            curve = (
                learning_curve(corpus, labelled, serve=served, generalist=generalist, progress=progress)
                if corpus
                else []
            )
            trials = {
                name: attempt(each, labelled, serve=served, generalist=generalist, progress=progress)
                for name, each in opened.items()
            }
            reports = {name: report_of(trial) for name, trial in trials.items()}
            page = None
            if drawing and plots:
                subjects = [
                    drawing.Subject(trial, reports[name], plane(trial, folders[name], progress=progress))
                    for name, trial in trials.items()
                    if compare or name == first
                ]
                progress("drawing", 0, 1)
                page = drawing.write(plots, subjects, list(reports.values()), curve, prompts=prompts, target=target)
    except ValueError as error:  # of the corpus, the artefact, the strategy or the served experts: each has its line
        _stop(str(error))
    except OSError as error:
        _stop(f"{plots}: cannot be written: {error.strerror or error}")
    if as_json:
        print(json.dumps(_said(reports, first, curve, page)))
        return
    if not compare:
        show(reports[first])
    if len(reports) > 1:
        show_compared(list(reports.values()))
    if curve:
        show_curve(curve)
    if page:
        print(f"{page}: tables and pictures; the pictures are beside it.")


def _said(reports: dict[str, dict[str, Any]], first: str, curve: list[Point], page: Path | None) -> dict[str, Any]:
    """Return what `--json` prints: the first report, and what else was asked for."""
    said = dict(reports[first])
    if len(reports) > 1:
        said["compared"] = [{key: report[key] for key in KEYS} for report in reports.values()]
    if curve:
        said["learning_curve"] = [asdict(point) for point in curve]
    if page:
        said["page"] = str(page)
    return said


def _labelled(path: Path) -> list[LabelledPrompt]:
    """Return prompts that all have a label."""
    labelled = read_prompts(path)
    if missing := sum(line.domain is None for line in labelled):
        raise CorpusError(f"{path}: {missing} of {len(labelled)} prompts have no 'domain' to compare with")
    return labelled


def _examples(path: Path | None) -> dict[str, list[str]]:
    """Return expert → prompts."""
    found: dict[str, list[str]] = {}
    for line in read_prompts(path) if path else []:
        if line.domain:
            found.setdefault(line.domain, []).append(line.prompt)
    return found


def _drawing(folder: Path) -> ModuleType:
    """Return what draws, having made sure that it can write: judging takes minutes, so this comes first."""
    drawing = _needed("router_svc.evaluation.figures", "--plots")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        return drawing


def _needed(module: str, option: str) -> ModuleType:
    """Import what only whoever fits or draws has installed."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise ValueError(f"{option} needs {missing}: pip install 'expertmesh[fit]'") from None


def _stop(problem: str) -> Never:
    typer.echo(" ".join(problem.split()), err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
