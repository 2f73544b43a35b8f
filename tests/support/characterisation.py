"""Rows as a characterisation would measure them, for tests of what is made of them."""

from typing import Any

from benchmarks.characterise.rows import Row


def row(configuration: str, users: int, *, way: str = "routed", **more: Any) -> Row:
    """Return a row of a load that went well. `more` replaces fields; a number for a time is every percentile of it."""
    times = {"first_token_s": 0.05, "session_s": 1.0, "inter_token_s": 0.01}
    times |= {name: more.pop(name) for name in times.keys() & more.keys()}
    told: dict[str, Any] = {
        "complete": True,
        "asked": 100,
        "answered": 100,
        "failed": 0,
        "unfinished": 0,
        "tokens_per_s": 100.0 * users,
        "requests_per_s": 2.0 * users,
        "experts": {"general": 40, "math": 60},
        "replicas": {"general-0": 40, "math-0": 60},
        "accuracy": 0.9,
        "load": {"general-0": {"waiting_mean": 0.0, "waiting_most": 0, "running_mean": 3.0, "kv_use_most": 0.1}},
        "stages_s": {name: {"count": 9, "p50": 0.001, "p95": 0.002, "p99": 0.003} for name in ("admit", "classify")},
    }
    spread = {name: dict.fromkeys(("p50", "p95", "p99"), value) for name, value in times.items()}
    return Row(configuration=configuration, users=users, way=way, **(told | spread | more))
