"""A load's results for people, as a table with a column for each rung, and for programs, as JSON and CSV."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from expertmesh_client.load.ceiling import Ceiling
from expertmesh_client.load.histogram import RELATIVE_ERROR
from expertmesh_client.load.plan import Job

TIMES = {
    "first token": ("first_token_s", ("p50", "p95", "p99")),
    "between tokens": ("inter_token_s", ("p50", "p99")),
    "largest gap": ("largest_gap_s", ("p50", "p99")),
    "session": ("session_s", ("p50", "p95", "p99")),
}


def document(
    job: Job, ceiling: Ceiling | None, results: Sequence[Mapping[str, Any]], *, complete: bool
) -> dict[str, Any]:
    """Return the whole object that is written as JSON.

    Args:
        complete: whether the whole ladder was climbed.
    """
    told = job.model_dump(mode="json", exclude={"tls", "token", "experts", "generalist"})
    limits = {name: getattr(ceiling, name) for name in Ceiling.__slots__} if ceiling else None
    return {
        "measures": "expertmesh load",
        "complete": complete,
        "job": told,
        "machine": {"cores": _cores(), "python": platform.python_version()},
        "relative_error_of_percentiles": RELATIVE_ERROR,
        "ceiling": limits,
        "rungs": list(results),
    }


def written(path: Path, document: Mapping[str, Any]) -> None:
    """Write results to a file: CSV where its name says so, else JSON. A reader never sees half of one."""
    text = as_csv(document["rungs"]) if path.suffix == ".csv" else json.dumps(document, indent=2) + "\n"
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def as_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each rung and a column for each figure; experts and errors have columns of their own."""
    rows = [_flat(result) for result in results]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(result: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in result.items():
        row |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return row


def table(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return rows of cells, the first naming the rungs, the first cell of each naming the measure."""
    rows = [_heading(results)]

    def add(name: str, cell: Any) -> None:
        cells = [cell(result) for result in results]
        if any(cells):
            rows.append((name, *cells))

    for count in ("answered", "failed", "unfinished"):
        add(count, lambda result, count=count: str(result[count]))
    add("requests/s", lambda result: _figure(result["requests_per_s"]))
    add("tokens/s", lambda result: _figure(result["tokens_per_s"]))
    add("goodput/s", lambda result: _figure(result["goodput_per_s"]))
    for name, (key, shares) in TIMES.items():
        for share in shares:
            add(f"{name} {share}, ms", lambda result, key=key, share=share: _ms(result[key][share]))
    add("routed right", lambda result: _percent(result["routed"]["accuracy"]))
    for expert in sorted({expert for result in results for expert in result["routed"]["experts"]}):
        add(f"  {expert}", lambda result, expert=expert: _share(result["routed"]["experts"], expert))
    add("generator late p99, ms", lambda result: _ms(_late_s(result)))
    add("generator busy", lambda result: _percent(result["generator"]["loop_share"]))
    add("of its ceiling", lambda result: _percent(result["generator"]["of_ceiling"]))
    return rows


def _heading(results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    kinds = {"users": "users", "rate": "requests/s meant", "speed": "times as recorded"}
    [kind] = {kind for kind in kinds if kind in results[0]}
    return (kinds[kind], *(f"{result[kind]:g}" + ("" if result["complete"] else " *") for result in results))


def remarks(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what has to be said of results beside their figures."""
    said = []
    for result in results:
        load, generator = result["load"], result["generator"]
        if not result["complete"]:
            said.append(f"* {load}: interrupted after {result['window_s']:.1f} s that count")
        if not result["asked"]:
            said.append(f"{load}: nothing was asked in {result['window_s']:.0f} s; measure for longer")
        said += [
            f"{load}: {error['count']} × {error['example'] or reason}" for reason, error in result["errors"].items()
        ]
        if result["unfinished"] and result["complete"]:
            said.append(
                f"{load}: {result['unfinished']} had no end when the load's had come: percentiles are lower bounds, "
                f"and routes are known of {sum(result['routed']['experts'].values())}"
            )
        if generator["saturated"]:
            said.append(f"{load}: do not trust this, the generator did not keep up: {generator['why']}")
    return said


def ceiling_line(ceiling: Ceiling) -> str:
    """Return the generator's ceiling in one line."""
    return (
        f"the generator's ceiling here: {_figure(ceiling.requests_per_s)} requests/s of one token, "
        f"{_figure(ceiling.tokens_per_s)} tokens/s in long answers (processor time: {ceiling.us_per_request:.0f} µs a "
        f"request, {ceiling.us_per_token:.1f} µs a token); at half that many requests/s it is "
        f"{ceiling.lag_p99_s * 1e3:.1f} ms late at p99; the limit was {ceiling.limit}"
    )


def _late_s(result: Mapping[str, Any]) -> float | None:
    lates = [result["generator"][name]["p99"] for name in ("lag_s", "loop_lag_s")]
    return max((late for late in lates if late is not None), default=None)


def _share(counts: Mapping[str, int], name: str) -> str:
    return _percent(counts.get(name, 0) / max(1, sum(counts.values())))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(value_s: float | None) -> str:
    return "" if value_s is None else _figure(value_s * 1e3)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
