"""Pictures of a verdict. Each function returns a PNG; matplotlib is loaded with this module, so import it late."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # figures of our own draw with Agg: no window, no global state
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from router_svc.evaluate_curve import Point
from router_svc.evaluate_map import Plane
from router_svc.judging import interval
from router_svc.strategy import CONTROLS

# Okabe, Ito 2008: colours that people with any colour vision tell apart; their yellow is too pale for dots.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
NOBODY = "#999999"  # who has no expert, or no colour left
MARKERS = "osD^vP*X"  # of strategies, and of experts beyond the palette
STYLE: Any = {  # of matplotlib's own keys
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in an expert's name is a dollar sign
}
CLOSE: Any = {"handletextpad": 0.1, "columnspacing": 1.2, "frameon": False}  # of a legend
WIDTH, DPI = 5.0, 160  # inches, and dots to each: 800 pixels, legible on a telephone too
MANY_CLUSTERS = 20  # more have no room for each one's number
VALUE: Any = {"fontsize": 8.5, "ha": "center", "va": "top"}
SHOWN, TICKS = (0.02, 0.99), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)  # of accuracy against cost
FEW_CLASSES = 8  # up to here a confusion matrix has room for names and counts in full


def confusion(report: Mapping[str, Any], *, over: str = "") -> bytes:
    """Draw labels by choices: shade is the share of a label, figures are prompts. `over` is "" or "domain_"."""
    counts = report[f"{over}confusion"]
    names = list(counts)
    table = np.array([list(row.values()) for row in counts.values()])
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    figure, axes = _figure(height=4.4)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    size = 11 if len(names) <= FEW_CLASSES else 6
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("expert chosen" if not over else "domain with the best score")
    axes.set_ylabel("label")
    return _png(figure)


def reliability(report: Mapping[str, Any]) -> bytes:
    """Draw stated confidence against accuracy; on the diagonal a score keeps its word. Below: how many prompts."""
    bins = report["reliability"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), dpi=DPI, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="#555555", linestyle="--", linewidth=1, label="keeps its word")
    found = np.array([each["accuracy"] for each in bins])
    reach = np.array([interval(each["accuracy"], each["prompts"]) for each in bins]).reshape(-1, 2).T
    above.errorbar(
        [each["confidence"] for each in bins],
        found,
        yerr=np.abs(reach - found),
        color=PALETTE[0],
        marker="o",
        elinewidth=1,
        label="measured, 95 % interval",
    )
    above.set(xlim=(0, 1.02), ylim=(0, 1.04), ylabel="accuracy")
    above.legend(loc="lower right", frameon=False)
    widths = [each["upper"] - each["lower"] for each in bins]
    below.bar(
        [each["lower"] for each in bins],
        [each["prompts"] for each in bins],
        width=widths,
        align="edge",
        color=PALETTE[0],
        edgecolor="white",
    )
    below.set(xlabel="confidence: score of the expert chosen", ylabel="prompts")
    below.set_yscale("symlog", linthresh=1)
    below.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    return _png(figure)


def balance(report: Mapping[str, Any]) -> bytes:
    """Draw the share of prompts in each cluster (or expert), coloured by who answers it, and the even share."""
    found = report["balance"]
    shares, experts = found["shares"], found["experts"]
    figure, axes = _figure(height=3.4)
    colours = _colours(report["experts"])
    places = range(len(shares))
    axes.bar(places, shares, color=[colours.get(expert, NOBODY) for expert in experts])
    axes.axhline(1 / len(shares), color="#555555", linestyle="--", linewidth=1)
    axes.annotate(
        "even",
        (1, 1 / len(shares)),
        xycoords=("axes fraction", "data"),
        va="center",
        xytext=(3, 0),
        textcoords="offset points",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share of the prompts")
    if found["of"] == "experts":
        axes.set_xticks(places, experts)
        axes.set_xlabel("expert chosen")
    else:
        axes.set_xlabel("cluster")
        if len(shares) <= MANY_CLUSTERS:
            axes.set_xticks(places)
        _legend_below(figure, [(expert, colours[expert], "s") for expert in report["experts"] if expert in experts])
    axes.grid(visible=False, axis="x")
    return _png(figure)


def prompt_map(seen: Plane, chosen: Sequence[str], right: Sequence[bool], experts: Sequence[str]) -> bytes:
    """Draw prompts in a plane, coloured by the expert chosen; a cross marks each wrong choice.

    Args:
        seen: where the prompts are.
        chosen: each shown prompt's expert.
        right: whether that is its label.
        experts: all experts served, in the order of their colours.
    """
    figure, axes = _figure(height=4.8)
    colours = _colours(experts)
    picked, hit = np.array(chosen), np.array(right, dtype=np.bool_)
    legend = []
    for place, expert in enumerate(experts):
        marker = MARKERS[place // len(PALETTE) % len(MARKERS)]
        mine = seen.points[picked == expert]
        if len(mine):
            axes.scatter(mine[:, 0], mine[:, 1], s=11, color=colours[expert], marker=marker, alpha=0.65, linewidths=0)
            legend.append((expert, colours[expert], marker))
    if not hit.all():
        missed = seen.points[~hit]
        axes.scatter(missed[:, 0], missed[:, 1], s=14, color="black", marker="x", linewidths=0.7)
        legend.append(("wrong", "black", "x"))
    axes.set_xlabel(f"component 1 ({seen.kept[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({seen.kept[1]:.0%})")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    _legend_below(figure, legend)
    return _png(figure)


def cost(reports: Sequence[Mapping[str, Any]], *, target: float | None = None) -> bytes:
    """Draw accuracy against what a prompt costs alone: a marker at the mean, a line from the median to p99."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.4), dpi=DPI, layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
    legend = []
    for place, report in enumerate(reports):
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        if place >= len(PALETTE):
            colour = NOBODY
        legend.append((report["strategy"], colour, marker))
        for axes, key in zip(panels, ("accuracy", "domain_accuracy"), strict=True):
            reach = [report["us_per_prompt"], report["us_per_prompt_p99"]]
            height = min(max(report[key], SHOWN[0]), SHOWN[1])
            axes.plot(reach, [height] * 2, color=colour, linewidth=2, alpha=0.6, solid_capstyle="round")
            at = report["us_per_prompt_mean"], height
            axes.plot(*at, marker=marker, color=colour, markersize=8, linestyle="")
            if report["strategy"] not in CONTROLS:  # whose markers stand in one another's way
                axes.annotate(f"{report[key]:.1%}", at, xytext=(0, -7), textcoords="offset points", **VALUE)
    for axes, key, what in zip(panels, ("accuracy", "domain_accuracy"), ("experts served", "domains"), strict=True):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:,.0f}" if us >= 1 else f"{us:g}"))
        axes.set_yscale("logit")  # the step from 90 to 95 % is as large as that from 82 to 90 %
        axes.set_yticks(TICKS, [f"{tick:.0%}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_ylabel(f"accuracy over {what}")
        lowest = max(SHOWN[0], min(report[key] for report in reports))
        axes.set_ylim(min(0.5, 0.7 * lowest), 0.993)
        _target(axes, target)
    panels[-1].set_xlabel("cost of a prompt alone (µs, logarithmic)")
    _legend_below(figure, legend, columns=4)
    return _png(figure)


def learning(points: Sequence[Point], *, target: float | None = None) -> bytes:
    """Draw the accuracy of `lexical` against the prompts that it was fitted on, with intervals of 95 %."""
    figure, axes = _figure(height=3.9)
    sizes = [point.fitted_on for point in points]
    for place, (key, name) in enumerate((("accuracy", "experts served"), ("domain_accuracy", "domains"))):
        values, low, high = ([getattr(point, f"{key}{end}") for point in points] for end in ("", "_low", "_high"))
        axes.fill_between(sizes, low, high, color=PALETTE[place], alpha=0.2, linewidth=0)
        axes.plot(sizes, values, color=PALETTE[place], marker=MARKERS[place], label=f"over {name}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=35, ha="right", rotation_mode="anchor")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="prompts fitted on (logarithmic)", ylabel="accuracy")
    _target(axes, target)
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def _figure(*, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure and its only axes; height in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        return figure, figure.subplots()


def _colours(experts: Sequence[str]) -> dict[str, str]:
    return {expert: PALETTE[place % len(PALETTE)] for place, expert in enumerate(experts)}


def _target(axes: Axes, target: float | None) -> None:
    """Draw the accuracy that is wanted."""
    if target is not None:
        axes.axhline(target, color="#555555", linestyle="--", linewidth=1)
        axes.annotate(
            f"target {target:.2%}".replace(".00%", "%"),
            (0, target),
            xycoords=("axes fraction", "data"),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=9,
        )


def _legend_below(figure: Figure, entries: Sequence[tuple[str, str, str]], *, columns: int = 5) -> None:
    """Put name, colour and marker of each entry below everything."""
    with mpl.rc_context(STYLE):
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", label=name) for name, colour, marker in entries
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, max(1, len(handles))), **CLOSE)


def _png(figure: Figure) -> bytes:
    written = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(written, format="png")
    return written.getvalue()
