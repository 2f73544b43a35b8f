"""The report's pictures. Each function returns a PNG."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from benchmarks.characterise.configurations import EXPERTS
from benchmarks.characterise.knees import saturates_at
from benchmarks.characterise.rows import PERCENTILES, Row, Series
from router_svc.evaluation.canvas import DPI, NOBODY, PALETTE, STYLE, png

SIMULATED = "simulated H100"
WIDTH = 4.4  # inches: words in it are legible where the page has 390 pixels
COLOURS = (*PALETTE, NOBODY, "#8c510a", "#35978f")
LINES: dict[str, Any] = {"experts": "-", "baseline": "--", "control": ":", "hop": "-"}
MARKERS = "osD^vP*Xh<"
STAGES = ("admit", "classify", "select", "forward", "rest")
LEGEND: Any = {"fontsize": 8.5, "title_fontsize": 8.5, "frameon": False, "handletextpad": 0.5, "columnspacing": 1.0}


def throughput(series: Sequence[Series], kind: str) -> bytes:
    """Draw tokens and answers per second over users; a line stands at each configuration's knee."""
    figure, axes = _stack(kind, "throughput", ["tokens/s", "answers/s"])
    for ours, value in zip(axes, (_tokens, _answers), strict=True):
        _lines(ours, series, value, knees=True)
    return _done(figure, series, kind)


def times(series: Sequence[Series], kind: str, name: str, title: str) -> bytes:
    """Draw the percentiles of a time over users, in ms; `name` is a field of `Row`."""
    figure, axes = _stack(kind, title, [f"{share}, ms" for share in PERCENTILES])
    for ours, share in zip(axes, PERCENTILES, strict=True):
        _lines(ours, series, lambda row, share=share: _ms(getattr(row, name)[share]), knees=share == "p95")  # type: ignore[misc]  # bound
    return _done(figure, series, kind)


def overhead(series: Series, kind: str) -> bytes:
    """Draw the router's stages over users in this machine's ms, and the time to first token routed and direct."""
    figure, (above, below) = _stack(kind, "what routing costs", ["p50 of a stage, ms", "first token, ms"])
    for number, stage in enumerate(STAGES):
        points = [(row.users, row.stages_s[stage]["p50"] * 1e3) for row in series.routed if stage in row.stages_s]
        above.plot(*_xy(points), color=COLOURS[number], marker=MARKERS[number], markersize=4, label=stage)
    for rows, name, colour in ((series.routed, "routed", COLOURS[0]), (series.direct, "direct", COLOURS[1])):
        for share, line in (("p50", "-"), ("p95", "--")):
            points = [(row.users, value) for row in rows if (value := _ms(row.first_token_s[share])) is not None]
            label = f"{name}, {share}"
            below.plot(*_xy(points), color=colour, linestyle=line, marker="o", markersize=4, label=label)
    for axes in (above, below):
        axes.set_yscale("log")
        _users_axis(axes, [row.users for row in series.routed])
        with mpl.rc_context(STYLE):
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.24), ncols=3, title=_where(kind), **LEGEND)
    return png(figure)


def split(series: Sequence[Series], kind: str) -> bytes:
    """Draw who answered at the heaviest load of each configuration, and how many waited for each engine over users."""
    several = [each for each in series if each.routed]
    figure, (above, below) = _stack(kind, "share and queue per expert", ["", "waiting, fullest engine"])
    figure.set_figheight(figure.get_figheight() + 0.25 * len(several))
    for place, each in enumerate(several):
        row, left = each.routed[-1], 0.0
        whole = max(1, sum(row.experts.values()))
        for number, expert in enumerate(EXPERTS):
            share = row.experts.get(expert, 0) / whole
            above.barh(place, share, left=left, height=0.5, color=COLOURS[number], label=expert if not place else None)
            left += share
        above.text(0, place - 0.3, each.configuration.title, fontsize=8, va="bottom")
    above.set_yticks([])
    above.set_ylim(len(several) - 0.6, -0.9)
    above.xaxis.set_major_formatter(PercentFormatter(1))
    above.grid(visible=False)
    with mpl.rc_context(STYLE):
        above.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, **LEGEND)
    _lines(below, series, _fullest, knees=False, log=False)
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(bottom=0)
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _done(figure, series, kind)


def _stack(kind: str, title: str, labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3 * len(labels) + 1.2), dpi=DPI, layout="constrained")
        made = [figure.add_subplot(len(labels), 1, place + 1) for place in range(len(labels))]
        figure.suptitle(f"{title[:1].upper()}{title[1:]} ({_where(kind)})", fontsize=11, x=0.01, ha="left")
        for axes, label in zip(made, labels, strict=True):
            axes.set_ylabel(label)
    return figure, made


def _lines(
    axes: Axes, series: Sequence[Series], value: Callable[[Row], float | None], *, knees: bool, log: bool = True
) -> None:
    for number, each in enumerate(series):
        points = [(row.users, found) for row in each.routed if (found := value(row)) is not None]
        if not points:
            continue
        colour = COLOURS[number % len(COLOURS)]
        marker, line = MARKERS[number % len(MARKERS)], LINES[each.configuration.role]
        axes.plot(*_xy(points), color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1.3)
        bends = saturates_at(each.users, [row.tokens_per_s for row in each.routed])
        if knees and bends is not None:
            axes.axvline(
                bends * 1.02 ** (number - len(series) / 2), color=colour, linestyle=line, linewidth=0.7, alpha=0.7
            )
    if log:
        axes.set_yscale("log")
    _users_axis(axes, [row.users for each in series for row in each.routed])


def _users_axis(axes: Axes, users: Sequence[int]) -> None:
    axes.set_xscale("log")
    rungs = sorted(set(users))
    axes.set_xticks(rungs, [f"{rung:,}" for rung in rungs], fontsize=8.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("users")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _done(figure: Figure, series: Sequence[Series], kind: str) -> bytes:
    """Put the legend below everything; simulated configurations say so there too."""
    prefix = f"{SIMULATED}: " if kind == "simulated" else ""
    with mpl.rc_context(STYLE):
        handles = [
            Line2D(
                [],
                [],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle=LINES[each.configuration.role],
                markersize=4,
                label=f"{prefix}{each.configuration.title}",
            )
            for number, each in enumerate(series)
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=1, **LEGEND)
    return png(figure)


def _where(kind: str) -> str:
    return SIMULATED if kind == "simulated" else "vLLM on this machine's CPU"


def _xy(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _tokens(row: Row) -> float | None:
    return row.tokens_per_s or None


def _answers(row: Row) -> float | None:
    return row.requests_per_s or None


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1e3


def _fullest(row: Row) -> float | None:
    return max((each["waiting_mean"] for each in row.load.values()), default=None)
