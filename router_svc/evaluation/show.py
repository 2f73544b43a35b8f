"""A verdict in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router_svc.evaluation.compare import row_of
from router_svc.evaluation.curve import Point, last_doubling


def show(report: Mapping[str, Any]) -> None:
    """Print one strategy's report as tables."""
    console = Console()
    figures = Table("", "experts served", "domains", title=f"{report['strategy']} on {report['prompts']} prompts")
    for name in ("accuracy", "macro_recall", "ece"):
        figures.add_row(name.replace("_", " "), f"{report[name]:.4f}", f"{report[f'domain_{name}']:.4f}")
    console.print(figures)
    confusion = Table("label \\ chosen", *map(escape, report["confusion"]), "recall", title="Confusion")
    for label, row in report["confusion"].items():
        recall = f"{report['recall'][label]:.2f}" if label in report["recall"] else "–"
        confusion.add_row(escape(label), *map(str, row.values()), recall)
    console.print(confusion)
    sources = Table("source", "prompts", "accuracy", title="By source")
    for source, found in report["per_source"].items():
        sources.add_row(escape(source), str(found["prompts"]), f"{found['accuracy']:.2f}")
    console.print(sources)
    balance = report["balance"]
    shares = " ".join(f"{share:.1%}" for share in balance["shares"])
    console.print(f"Balance over {balance['of']}: largest {balance['max_over_mean']:.2f} times the mean ({shares})")
    if balance["without_cluster"]:
        console.print(f"Prompts without a known word, scored with the prior: {balance['without_cluster']}")
    alone, mean, slowest = (report[key] for key in ("us_per_prompt", "us_per_prompt_mean", "us_per_prompt_p99"))
    console.print(
        f"Cost: {alone:.0f} µs for a prompt alone (median; mean {mean:.0f}, p99 {slowest:.0f}), "
        f"{report['us_per_prompt_batched']:.0f} µs in a batch of {report['batch']}"
    )


def show_compared(reports: Sequence[Mapping[str, Any]]) -> None:
    """Print strategies side by side. The figures over domains stand in rows of their own: a terminal is narrow."""
    table = Table("", "accuracy", "macro recall", "ECE", "median µs", "mean µs", "p99 µs", title="Experts served")
    domains = Table("", "accuracy", "macro recall", "ECE", title="Domains")
    for report in reports:
        name, *cells = row_of(report)
        table.add_row(name, *cells[:3], *cells[6:])
        domains.add_row(name, *cells[3:6])
    for each in (table, domains):
        for column in each.columns[1:]:
            column.justify = "right"
        Console().print(each)


def show_curve(curve: Sequence[Point]) -> None:
    """Print accuracy against training size."""
    table = Table("fitted on", "experts served", "domains", "95 % interval", title="lexical by training size")
    for point in curve:
        between = f"{point.domain_accuracy_low:.3f} to {point.domain_accuracy_high:.3f}"
        table.add_row(f"{point.fitted_on:,}", f"{point.accuracy:.4f}", f"{point.domain_accuracy:.4f}", between)
    console = Console()
    console.print(table)
    if (gained := last_doubling(curve)) is not None:
        console.print(f"The last doubling brought {100 * gained:+.1f} points over domains.")
