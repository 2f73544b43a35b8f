"""Pictures of a verdict. Each function returns a PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from router_svc.evaluation.canvas import NOBODY, PALETTE, colours, empty, legend_below, panels, png, target_line
from router_svc.evaluation.curve import Point
from router_svc.evaluation.plane import Plane
from router_svc.fitting.judging import interval
from router_svc.strategies.strategy import CONTROLS

MARKERS = "osD^vP*X"  # of strategies, and of experts beyond the palette
MANY_CLUSTERS = 20  # more have no room for each one's number
PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}  # keeps lines out of a figure
VALUE: Any = {"fontsize": 8.5, "ha": "center", "va": "top", "bbox": PLATE}
SHOWN, TICKS = (0.02, 0.99), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)  # of accuracy against cost
FEW_CLASSES = 8  # up to here a confusion matrix has room for names and counts in full


def confusion(report: Mapping[str, Any], *, over: str = "") -> bytes:
    """Draw labels by choices: shade is the share of a label, figures are prompts. `over` is "" or "domain_"."""
    counts = report[f"{over}confusion"]
    names = list(counts)
    table = np.array([list(row.values()) for row in counts.values()])
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    figure, axes = empty(height=4.4)
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
    return png(figure)


def reliability(report: Mapping[str, Any]) -> bytes:
    """Draw stated confidence against accuracy; on the diagonal a score keeps its word. Below: how many prompts."""
    bins = report["reliability"]
    figure, above, below = panels(height=4.4, heights=(3, 1))
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
    above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
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
    return png(figure)


def balance(report: Mapping[str, Any]) -> bytes:
    """Draw the share of prompts in each cluster (or expert), coloured by who answers it, and the even share."""
    found = report["balance"]
    shares, experts = found["shares"], found["experts"]
    figure, axes = empty(height=3.4)
    colour_of = colours(report["experts"])
    places = range(len(shares))
    axes.bar(places, shares, color=[colour_of.get(expert, NOBODY) for expert in experts])
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
        legend_below(figure, [(expert, colour_of[expert], "s") for expert in report["experts"] if expert in experts])
    axes.grid(visible=False, axis="x")
    return png(figure)


def prompt_map(seen: Plane, chosen: Sequence[str], right: Sequence[bool], experts: Sequence[str]) -> bytes:
    """Draw prompts in a plane, coloured by the expert chosen; a cross marks each wrong choice.

    Args:
        seen: where the prompts are.
        chosen: each shown prompt's expert.
        right: whether that is its label.
        experts: all experts served, in the order of their colours.
    """
    figure, axes = empty(height=4.8)
    colour_of = colours(experts)
    picked, hit = np.array(chosen), np.array(right, dtype=np.bool_)
    legend = []
    for place, expert in enumerate(experts):
        marker = MARKERS[place // len(PALETTE) % len(MARKERS)]
        mine = seen.points[picked == expert]
        if len(mine):
            axes.scatter(mine[:, 0], mine[:, 1], s=11, color=colour_of[expert], marker=marker, alpha=0.65, linewidths=0)
            legend.append((expert, colour_of[expert], marker))
    if not hit.all():
        missed = seen.points[~hit]
        axes.scatter(missed[:, 0], missed[:, 1], s=14, color="black", marker="x", linewidths=0.7)
        legend.append(("wrong", "black", "x"))
    axes.set_xlabel(f"component 1 ({seen.kept[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({seen.kept[1]:.0%})")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    legend_below(figure, legend)
    return png(figure)


def cost(reports: Sequence[Mapping[str, Any]], *, target: float | None = None) -> bytes:
    """Draw accuracy against what a prompt costs alone: a marker at the mean, a line from the median to p99."""
    figure, above, below = panels(height=6.4)
    legend = []
    for place, report in enumerate(reports):
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        if place >= len(PALETTE):
            colour = NOBODY
        legend.append((report["strategy"], colour, marker))
        for axes, key in zip((above, below), ("accuracy", "domain_accuracy"), strict=True):
            reach = [report["us_per_prompt"], report["us_per_prompt_p99"]]
            height = min(max(report[key], SHOWN[0]), SHOWN[1])
            axes.plot(reach, [height] * 2, color=colour, linewidth=2, alpha=0.6, solid_capstyle="round")
            at = report["us_per_prompt_mean"], height
            axes.plot(*at, marker=marker, color=colour, markersize=8, linestyle="")
            if report["strategy"] not in CONTROLS:  # whose markers stand in one another's way
                axes.annotate(f"{report[key]:.1%}", at, xytext=(0, -7), textcoords="offset points", **VALUE)
    for axes, key, what in zip(
        (above, below), ("accuracy", "domain_accuracy"), ("experts served", "domains"), strict=True
    ):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:,.0f}" if us >= 1 else f"{us:g}"))
        axes.set_yscale("logit")  # the step from 90 to 95 % is as large as that from 82 to 90 %
        axes.set_yticks(TICKS, [f"{tick:.0%}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_ylabel(f"accuracy over {what}")
        lowest = max(SHOWN[0], min(report[key] for report in reports))
        axes.set_ylim(min(0.5, 0.7 * lowest), 0.993)
        target_line(axes, target)
    below.set_xlabel("cost of a prompt alone (µs, logarithmic)")
    legend_below(figure, legend, columns=4)
    return png(figure)


def learning(points: Sequence[Point], *, target: float | None = None) -> bytes:
    """Draw the accuracy of `lexical` against the prompts that it was fitted on, with intervals of 95 %."""
    figure, axes = empty(height=3.9)
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
    target_line(axes, target)
    axes.legend(loc="lower right", frameon=False)
    return png(figure)
