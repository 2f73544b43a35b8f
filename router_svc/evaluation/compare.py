"""Strategies side by side: which ones, and what of their reports stands in one row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router_svc.strategies.strategy import STRATEGIES

ALL = "all"
DEFAULT = "cascade"
KEYS = (
    "strategy",
    "generation",
    "accuracy",
    "macro_recall",
    "ece",
    "domain_accuracy",
    "domain_macro_recall",
    "domain_ece",
    "us_per_prompt",
    "us_per_prompt_mean",
    "us_per_prompt_p99",
)
HEAD = (
    "strategy",
    "accuracy",
    "macro recall",
    "ECE",
    "accuracy, domains",
    "macro recall, domains",
    "ECE, domains",
    "median µs",
    "mean µs",
    "p99 µs",
)


def folder_of(strategy: str, artefacts: Path) -> Path:
    """Return where a strategy's artefact is; `few_shot` reads the one of `encoder`."""
    return artefacts / ("encoder" if strategy == "few_shot" else strategy)


def plan(strategy: str | None, compare: Sequence[str], *, cost_of_all: bool) -> tuple[str, list[str], set[str]]:
    """Say what to try.

    Args:
        strategy: the one to report in full, if it was named.
        compare: the arguments of `--compare`: names with commas; `all` stands for every strategy.
        cost_of_all: whether the cost of every strategy is wanted where nothing is to be compared.

    Returns:
        The strategy to report in full; all to try, it among them; those of them that nobody named, which may be left
        out where they cannot be tried.

    Raises:
        ValueError: `compare` names no strategy, or one that does not exist.
    """
    names = [name.strip() for argument in compare for name in argument.split(",") if name.strip()]
    if compare and not names:
        raise ValueError("--compare names no strategy")
    if strange := [name for name in names if name not in (ALL, *STRATEGIES)]:
        raise ValueError(f"unknown strategy {strange[0]!r}; there are {', '.join(STRATEGIES)}, or {ALL}")
    own = [name for name in names if name != ALL]
    first = strategy or (own[0] if own else DEFAULT)
    every = STRATEGIES if ALL in names or (cost_of_all and not names) else ()
    tried = list(dict.fromkeys([*(every if first in every else (first, *every)), *own]))
    return first, tried, set(tried) - {first, *own}


def row_of(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells below `HEAD`."""
    shares = [f"{report[key]:.4f}" for key in KEYS[2:8]]
    return (str(report["strategy"]), *shares, *(f"{report[key]:,.0f}" for key in KEYS[8:]))
