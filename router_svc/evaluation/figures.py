"""Verdicts → pictures, and the page that shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router_svc.evaluation import plots
from router_svc.evaluation.compare import HEAD, row_of
from router_svc.evaluation.curve import Point, last_doubling
from router_svc.evaluation.page import Picture, Section, page
from router_svc.evaluation.plane import Plane
from router_svc.evaluation.verdict import Trial
from router_svc.strategies.strategy import CONTROLS

PAGE = "report.html"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A strategy that is drawn in full."""

    trial: Trial
    report: Mapping[str, Any]
    plane: Plane | None  # None: it sees no space


def write(
    folder: Path,
    subjects: Sequence[Subject],
    reports: Sequence[Mapping[str, Any]],
    curve: Sequence[Point],
    *,
    prompts: Path,
    target: float | None,
) -> Path:
    """Write PNGs and the page that holds them all; files of the same names are written over.

    Args:
        folder: where to; there already.
        subjects: strategies to draw in full.
        reports: of all strategies to compare.
        curve: accuracy against training size; may be empty.
        prompts: the file that they were tried on.
        target: accuracy that is wanted, drawn as a line.

    Returns:
        The page's path.

    Raises:
        OSError: something cannot be written.
    """
    sections = [_side_by_side(reports, target)]
    if curve:
        sections.append(_learning(curve, target))
    sections += [_in_full(subject) for subject in subjects]
    for section in sections:
        for picture in section.pictures:
            (folder / picture.file).write_bytes(picture.png)
    first = reports[0]
    summary = (
        f"{first['prompts']:,} prompts of {prompts.name}; served: {', '.join(first['experts'])}; "
        f"{first['generalist']} answers what nobody is special in."
    )
    written = folder / PAGE
    written.write_text(page("How well the router chooses", summary, sections), encoding="utf-8")
    return written


def _side_by_side(reports: Sequence[Mapping[str, Any]], target: float | None) -> Section:
    picture = Picture(
        "cost.png",
        "Accuracy against cost, for each strategy",
        "Accuracy against the cost of a prompt that comes alone. The marker stands at the mean cost, the line reaches "
        "from the median to the 99th percentile.",
        plots.cost(reports, target=target),
    )
    text = (
        "Over the experts served, a domain that none serves counts as the generalist's; over domains, each domain of "
        "the corpus counts by itself. Controls state a score of 1 whatever they choose, so their calibration error is "
        "the share that they get wrong."
    )
    return Section("Strategies side by side", text, (HEAD, [row_of(report) for report in reports]), (picture,))


def _learning(curve: Sequence[Point], target: float | None) -> Section:
    gained = last_doubling(curve)
    text = "" if gained is None else f"The last doubling brought {100 * gained:+.1f} points of accuracy over domains."
    head = ("prompts fitted on", "accuracy, experts served", "95 % interval", "accuracy, domains", "95 % interval")
    rows = [
        (
            f"{point.fitted_on:,}",
            f"{point.accuracy:.4f}",
            f"{point.accuracy_low:.3f} to {point.accuracy_high:.3f}",
            f"{point.domain_accuracy:.4f}",
            f"{point.domain_accuracy_low:.3f} to {point.domain_accuracy_high:.3f}",
        )
        for point in curve
    ]
    picture = Picture(
        "learning.png",
        "Accuracy of lexical against training size",
        "Strategy lexical, fitted on growing shares of the corpus, each holding the one before; shaded: the interval "
        "that holds the true accuracy in 95 of 100 such samples of prompts.",
        plots.learning(curve, target=target),
    )
    return Section("Accuracy against training size", text, (head, rows), (picture,))


def _in_full(subject: Subject) -> Section:
    trial, report = subject.trial, subject.report
    name = str(report["strategy"])
    wrong = len(trial.labelled) - int(trial.right.sum())
    text = f"{wrong:,} of {len(trial.labelled):,} prompts went to another expert than their label's."
    pictures = [
        Picture(
            f"confusion-{name}.png",
            f"Confusion matrix of {name} over the experts served",
            "Labels in rows, choices in columns; figures are prompts, shade is the share of the label.",
            plots.confusion(report),
        ),
    ]
    if name not in CONTROLS:
        pictures.append(
            Picture(
                f"confusion-domains-{name}.png",
                f"Confusion matrix of {name} over the domains",
                "The same over the domains of the corpus.",
                plots.confusion(report, over="domain_"),
            )
        )
        pictures.append(
            Picture(
                f"reliability-{name}.png",
                f"Reliability diagram of {name}",
                f"Below the diagonal: surer than right. Expected calibration error {report['ece']:.4f}.",
                plots.reliability(report),
            )
        )
    of = report["balance"]["of"]
    pictures.append(
        Picture(
            f"balance-{name}.png",
            f"Share of the prompts in each of {name}'s {of}",
            f"Balance over {of}: the largest holds {report['balance']['max_over_mean']:.2f} times the even share.",
            plots.balance(report),
        )
    )
    if subject.plane:
        pictures.append(_map(subject, subject.plane))
    return Section(name, text, None, tuple(pictures))


def _map(subject: Subject, seen: Plane) -> Picture:
    trial = subject.trial
    chosen, right = trial.chosen, trial.right
    return Picture(
        f"map-{trial.strategy.name}.png",
        f"Map of the prompts, coloured by the expert that {trial.strategy.name} chose",
        f"{len(seen.shown):,} prompts by the two directions in which they differ most ({seen.space}); a cross marks "
        "a wrong choice.",
        plots.prompt_map(seen, [chosen[at] for at in seen.shown], [bool(right[at]) for at in seen.shown], trial.serve),
    )
