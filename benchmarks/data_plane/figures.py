"""From measured cells to the figures of a row, and from rows to tables."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.data_plane.loads import Load
from benchmarks.data_plane.measure import Cell
from benchmarks.report import percentile

Row = dict[str, Any]
SATURATED = 0.9  # of the generator's core
NOTICED = 0.1  # of a core, used by others

# key, heading, decimals
COLUMNS = (
    ("us_per_token", "µs/token", 1),
    ("us_per_request", "µs/request", 0),
    ("us_per_decision", "µs/decision", 0),
    ("tokens_per_s", "tokens/s", 0),
    ("tokens_per_delta", "tokens/delta", 2),
    ("requests_per_s", "requests/s", 0),
    ("decisions_per_s", "decisions/s", 0),
    ("middle_cpu", "CPU %", 0),
    ("first_token_p50_ms", "answer p50 ms", 2),
    ("added_first_token_p50_ms", "+TTFT p50 ms", 2),
    ("added_first_token_p99_ms", "+TTFT p99 ms", 2),
    ("gap_p50_ms", "gap p50 ms", 0),
    ("gap_p99_ms", "gap p99 ms", 0),
    ("delivered", "delivered %", 1),
    ("errors", "errors", 0),
    ("peak_mb", "peak MB", 0),
)


def row_of(load: Load, way: str, cells: Sequence[Cell], direct: Sequence[Cell]) -> Row:
    """Return the figures of one way under one load: medians over rounds; times of all rounds together."""
    row: Row = {"way": way, "middle_cpu": 100 * median(cell.middle_s / cell.window_s for cell in cells)}
    first = [value for cell in cells for value in cell.first_s]
    if load.steady:
        row["us_per_token"] = 1e6 * median(cell.middle_s / max(1, cell.tokens) for cell in cells)
        row["tokens_per_delta"] = median(cell.tokens / max(1, cell.deltas) for cell in cells)
        row["delivered"] = 100 * median(cell.tokens / cell.due for cell in cells)
        gaps = [value for cell in cells for value in cell.gaps_s]
        row["gap_p50_ms"], row["gap_p99_ms"] = 1e3 * percentile(gaps, 0.5), 1e3 * percentile(gaps, 0.99)
        plain = [value for cell in direct for value in cell.first_s]
        for share in (50, 99):
            if first:
                row[f"first_token_p{share}_ms"] = 1e3 * percentile(first, share / 100)
            if first and plain and cells is not direct:
                more = percentile(first, share / 100) - percentile(plain, share / 100)
                row[f"added_first_token_p{share}_ms"] = 1e3 * more
        row["first_tokens"] = len(first)
    else:
        what = "decision" if load.of_decisions else "token" if load.endless else "request"
        counted = "requests" if what == "request" else "tokens"
        row[f"us_per_{what}"] = 1e6 * median(cell.middle_s / max(1, getattr(cell, counted)) for cell in cells)
        if load.endless:
            row["tokens_per_delta"] = median(cell.tokens / max(1, cell.deltas) for cell in cells)
        row[f"{what}s_per_s"] = median(getattr(cell, counted) / cell.window_s for cell in cells)
        if first:
            row["first_token_p50_ms"] = 1e3 * percentile(first, 0.5)
    if cells is direct:
        row = {key: value for key, value in row.items() if not key.startswith(("us_", "middle_"))}
    else:
        row["peak_mb"] = max(cell.peak_mb for cell in cells)
    row["errors"] = sum(len(cell.errors) for cell in cells)
    row["backend_cpu"] = 100 * median(cell.backend_s / cell.window_s for cell in cells)
    row["client_cpu"] = 100 * median(cell.client_s / cell.window_s for cell in cells)
    row["remarks"] = _remarks(load, cells)
    return row


def _remarks(load: Load, cells: Sequence[Cell]) -> list[str]:
    """Say what makes the figures doubtful."""
    said = []
    generator = median((cell.backend_s + cell.client_s) / cell.window_s for cell in cells)
    middle = median(cell.middle_s / cell.window_s for cell in cells)
    if generator > SATURATED and (load.steady or 0 < middle < SATURATED):
        said.append(f"generator saturated: backend and client used {generator:.0%} of their core")
    if load.steady and (lost := sum(cell.lost_steps for cell in cells)):
        said.append(f"the engines were late by {lost} steps")
    for core, others in zip(
        ("middle's", "generator's"), zip(*(cell.other_s for cell in cells), strict=True), strict=True
    ):
        share = median(used / cell.window_s for used, cell in zip(others, cells, strict=True))
        if share > NOTICED:
            said.append(f"other processes used {share:.0%} of the {core} core")
    if unbegun := sum(cell.unbegun for cell in cells):
        said.append(f"{unbegun} of {load.streams * len(cells)} streams had no token when the window began")
    if stayed := sum(cell.stayed for cell in cells):
        said.append(f"{stayed} answers went on after their caller had left")
    if errors := [error for cell in cells for error in cell.errors]:
        said.append(f"first error: {errors[0][:100]}")
    return said


def _shown(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    steady = any("delivered" in row for row in rows)
    keys = {key for row in rows for key in row} - ({"first_token_p50_ms"} if steady else set())
    return [column for column in COLUMNS if column[0] in keys]


def _cells(row: Mapping[str, Any], shown: Sequence[tuple[str, str, int]]) -> list[str]:
    return [f"{row[key]:,.{decimals}f}" if key in row else "–" for key, _, decimals in shown]


def _generator(row: Row) -> str:
    return f"{row['backend_cpu']:.0f} + {row['client_cpu']:.0f}"


def print_tables(console: Console, tables: Mapping[str, Sequence[Row]]) -> None:
    """Print one table per load."""
    for title, rows in tables.items():
        shown = _shown(rows)
        table = Table("way", title=title, title_justify="left")
        for _, heading, _ in shown:
            table.add_column(heading, justify="right")
        table.add_column("backend+client %", justify="right")
        for row in rows:
            table.add_row(row["way"], *_cells(row, shown), _generator(row))
        console.print(table)
        for row in rows:
            for remark in row["remarks"]:
                console.print(f"  ! {row['way']}: {remark}", highlight=False)


def markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return the tables as a README has them."""
    lines: list[str] = []
    for title, rows in tables.items():
        shown = _shown(rows)
        headings = ["way", *(heading for _, heading, _ in shown)]
        lines += [f"**{title}**", "", f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * len(shown)}"]
        for row in rows:
            way = f"{row['way']} [!]" if row["remarks"] else row["way"]
            lines.append(f"| {' | '.join([way, *_cells(row, shown)])} |")
        lines += [f"\n[!] {row['way']}: {'; '.join(row['remarks'])}" for row in rows if row["remarks"]]
        lines.append("")
    return "\n".join(lines)
