"""What all pictures share: size, style, colours. matplotlib is loaded with this module, so import it late."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # figures of our own draw with Agg: no window, no global state
from matplotlib.lines import Line2D

# Okabe, Ito 2008: colours that people with any colour vision tell apart; their yellow is too pale for dots.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
NOBODY = "#999999"  # who has no expert, or no colour left
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


def empty(*, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure and its only axes; height in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        return figure, figure.subplots()


def panels(*, height: float, heights: Sequence[int] = (1, 1)) -> tuple[Figure, Axes, Axes]:
    """Return an empty figure and two axes, one above the other, that share x; height in inches, `heights` relative."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        return figure, above, below


def colours(experts: Sequence[str]) -> dict[str, str]:
    """Return each expert's colour; beyond the palette they come again."""
    return {expert: PALETTE[place % len(PALETTE)] for place, expert in enumerate(experts)}


def target_line(axes: Axes, target: float | None) -> None:
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


def legend_below(figure: Figure, entries: Sequence[tuple[str, str, str]], *, columns: int = 5) -> None:
    """Put name, colour and marker of each entry below everything."""
    with mpl.rc_context(STYLE):
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", label=name) for name, colour, marker in entries
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, max(1, len(handles))), **CLOSE)


def png(figure: Figure) -> bytes:
    """Return a figure as a file's content."""
    written = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(written, format="png")
    return written.getvalue()
