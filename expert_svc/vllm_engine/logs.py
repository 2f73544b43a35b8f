"""vLLM's log lines, made readable, and the last words of its processes, kept.

vLLM configures logging in each of its processes from one JSON file. The classes here are named in that file, so they
also run inside the engine-core process: nothing here imports vLLM.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from expert_svc.vllm_engine import orphans

_LONGEST = 400  # characters of a reason
_REFERRALS = ("root cause", "stack trace")  # a reason with one of these only points to another
# Said at every start, about nothing that a user of this project could or should change.
_HARMLESS = (
    "Triton is not installed",
    "Reset SSM cache type",
    "Model Runner V2 requires Triton",
    "vLLM has deprecated support for supporting different tokenizers for different LoRAs",
    "Passing raw prompts to InputProcessor is deprecated",  # the one way by which vLLM reads a request off the loop
    "Default vLLM sampling parameters have been overridden",
    "libtcmalloc is not found",
    "libiomp is not found",
    "Inductor compilation was disabled",
    "Enforce eager set",
)
_FATAL = ("EngineCore failed to start.", "EngineCore encountered a fatal error.", "WorkerProc failed to start.")
_GRAVE = (*_FATAL, "WorkerProc hit an exception.")  # the last of these ends the engine, if not its own process


def one_line(error: BaseException) -> str:
    """Return what `error` says, in one line that stands by itself."""
    said = _of_settings(error) or str(error)
    said = " ".join(said.split())
    if not isinstance(error, (ValueError, RuntimeError)) or not said:
        said = f"{type(error).__name__}: {said}".removesuffix(": ")
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"


def _of_settings(error: BaseException) -> str | None:
    """Return what pydantic found wrong, one reason for each setting; None for other errors."""
    details = getattr(error, "errors", None)
    if not (isinstance(error, ValueError) and callable(details)):
        return None
    reasons: dict[str, str] = {}
    for detail in details():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        reasons.setdefault(name, detail["msg"].removeprefix("Value error, "))
    return "; ".join(f"{name}: {reason}" if name else reason for name, reason in reasons.items())


class OneLine(logging.Formatter):
    """`vllm[engine core] ERROR: message: reason`, the traceback only at the levels of those who look for it."""

    def format(self, record: logging.LogRecord) -> str:
        where = "" if record.processName == "MainProcess" else f"[{record.processName}]"
        line = f"vllm{where} {record.levelname}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1]:
            line += f" {one_line(record.exc_info[1])}"
            if logging.getLogger("vllm").getEffectiveLevel() < logging.WARNING:
                line += "\n" + self.formatException(record.exc_info)
        return line


class WithoutHarmless(logging.Filter):
    """Drops what is said at every start."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_HARMLESS)


class LastWords(logging.Handler):
    """Appends to a file, as JSON lines, each reason that a vLLM process gives for dying."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = Path(path)

    def emit(self, record: logging.LogRecord) -> None:
        if not (record.exc_info and record.exc_info[1] and record.getMessage().startswith(_GRAVE)):
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(one_line(record.exc_info[1])) + "\n")
        except OSError:
            self.handleError(record)
        quiet = record.processName != "MainProcess" and logging.getLogger("vllm").getEffectiveLevel() >= logging.WARNING
        if quiet and record.getMessage().startswith(_FATAL):
            # Next, multiprocessing prints the same exception with its traceback and the process ends.
            sys.stderr.flush()
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process


def last_words(path: Path) -> str | None:
    """Return the reason that was given last and does not point to another; None if there is none."""
    try:
        reasons = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return None
    return next((reason for reason in reversed(reasons) if not any(word in reason for word in _REFERRALS)), None)


def write_config(folder: Path, level: str) -> tuple[Path, Path]:
    """Write vLLM's logging configuration into `folder`; return its path, and that of the last words."""
    config, words = folder / "logging.json", folder / "last_words.jsonl"
    here = __name__
    content: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"harmless": {"()": f"{here}.WithoutHarmless"}},
        "formatters": {"line": {"()": f"{here}.OneLine"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "line",
                "filters": ["harmless"],
            },
            "last_words": {"()": f"{here}.LastWords", "path": str(words)},
            "orphans": {"()": f"{orphans.__name__}.LeaveWithParent"},
        },
        "loggers": {"vllm": {"handlers": ["stderr", "last_words", "orphans"], "level": level, "propagate": False}},
    }
    config.write_text(json.dumps(content), encoding="utf-8")
    return config, words
