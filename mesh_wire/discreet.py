"""Tracebacks for logs that tell where something failed and as what, and not with which words.

The words of an unexpected error are whoever's code it was: a tokeniser's or a parser's often quote what they were
given, which is what callers write. Those of our own errors and of the operating system's do not.
"""

import logging
import traceback
from types import TracebackType

from mesh_wire.errors import MeshError

OPEN = (MeshError, OSError)  # errors whose words are safe to show
ErrorInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class DiscreetFormatter(logging.Formatter):
    """Formats log records; of an exception, the lines of code and the kinds of errors."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another formatter's, with all its words
        return super().format(record)

    def formatException(self, ei: ErrorInfo) -> str:  # logging's name
        error = ei[1]
        if error is None:
            return ""
        said: list[str] = []
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            words = f": {error}" if isinstance(error, OPEN) else ""
            frames = "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
            said.append(f"Traceback (most recent call last):\n{frames}\n{type(error).__qualname__}{words}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\nwhich came from:\n\n".join(said)
