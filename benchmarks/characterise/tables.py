"""The report's tables: heads and rows of words. Pure functions."""

from collections.abc import Sequence

from benchmarks.characterise.findings import FIRST_TOKEN_LIMIT_S
from benchmarks.characterise.knees import carries, saturates_at
from benchmarks.characterise.plots import STAGES
from benchmarks.characterise.profile import load
from benchmarks.characterise.rows import Row, Series

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
HEAD_T1 = (
    "configuration",
    "model",
    "precision",
    "hardware",
    "weights, GB each",
    "KV tokens each",
    "speed",
    "knee, users",
    "carries, users",
    "profile",
)


def configurations(series: Sequence[Series]) -> Table:
    """T1: each configuration, its memory, and what it came to."""
    rows = []
    for each in series:
        ours = each.configuration
        knee, most = saturates(each), carried(each)
        profile = ours.engines[0].profile
        rows.append(
            (
                ours.title,
                ours.model,
                ours.precision,
                ours.gpus,
                f"{ours.weights_gb:g}",
                f"{ours.kv_tokens:,}",
                f"{ours.speed:g}",
                "–" if knee is None else f"{knee:,}",
                f"{most:,}",
                "–" if not profile else "derived" if ours.derived else f"± {load(profile).tokens_per_s_error:.0%}",
            )
        )
    return HEAD_T1, rows


def figures(series: Sequence[Series], name: str) -> Table:
    """Return a row for each configuration, a column for each load: a time of `Row`, or `throughput`."""
    users = sorted({row.users for each in series for row in each.routed})
    what = "tokens/s" if name == "throughput" else "p50 / p95 / p99, ms"
    rows = []
    for each in series:
        cells = [("" if (row := each.at(load)) is None else _figure(row, name)) for load in users]
        rows.append((each.configuration.title, *cells))
    return (what, *(f"{load:,}" for load in users)), rows


def _figure(row: Row, name: str) -> str:
    mark = " *" * bool(row.late) + " (part)" * (not row.complete)
    if name == "throughput":
        return f"{row.tokens_per_s:,.0f}{mark}"
    return " / ".join("–" if value is None else f"{value * 1e3:,.0f}" for value in getattr(row, name).values()) + mark


def overhead(series: Series) -> Table:
    """P1: the router's stages, p50 by the clock, and whole answers routed and direct."""
    head = ("users", *(f"{stage}, ms" for stage in STAGES), "session routed, ms", "session direct, ms")
    direct = {row.users: row for row in series.direct}
    rows = []
    for row in series.routed:
        stages = [f"{row.stages_s[name]['p50'] * 1e3:.2f}" if name in row.stages_s else "–" for name in STAGES]
        other = direct.get(row.users)
        rows.append((f"{row.users:,}", *stages, _p50(row), "–" if other is None else _p50(other)))
    return head, rows


def _p50(row: Row) -> str:
    value = row.session_s["p50"]
    return "–" if value is None else f"{value * 1e3:,.0f}{' *' * bool(row.late)}"


def split(series: Sequence[Series]) -> Table:
    """P6: how evenly each configuration's heaviest load fell on its engines."""
    head = (
        "configuration",
        "users",
        "routed right",
        "fullest / mean engine",
        "waiting, mean of engines",
        "most waiting",
    )
    rows = []
    for each in series:
        row = each.routed[-1]
        counts = list(row.replicas.values())
        uneven = max(counts) / (sum(counts) / max(1, len(each.configuration.engines))) if counts else 0.0
        waiting = [seen["waiting_mean"] for seen in row.load.values()]
        right = "–" if row.accuracy is None or each.configuration.role == "baseline" else f"{row.accuracy:.0%}"
        mean = f"{sum(waiting) / len(waiting):,.1f}" if waiting else "–"
        most = f"{max((seen['waiting_most'] for seen in row.load.values()), default=0):,.0f}"
        rows.append((each.configuration.title, f"{row.users:,}", right, f"{uneven:.2f}", mean, most))
    return head, rows


def saturates(series: Series) -> int | None:
    """Return a configuration's knee, in users; see `knees`."""
    return saturates_at(series.users, [row.tokens_per_s for row in series.routed])


def carried(series: Series) -> int:
    """Return the heaviest load of a configuration with a p95 to first token within the limit of its kind, in users."""
    limit_s = FIRST_TOKEN_LIMIT_S[series.configuration.kind]
    return carries(series.users, [row.first_token_s["p95"] for row in series.routed], limit_s)
