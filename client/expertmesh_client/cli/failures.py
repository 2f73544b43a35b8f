"""What a user sees of a failure: one line on standard error, and an exit code."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

FAILED, WRONG, INTERRUPTED = 1, 2, 130


class Failure(Exception):
    """A command cannot go on, for the reasons given, one line each."""

    def __init__(self, *lines: str, code: int = FAILED) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.code = code


class Commands(TyperGroup):
    """The commands, with every way to fail in one place."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
                reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            _leave_quietly()
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                _leave_quietly()
            lines, code = _told(error)
            for line in lines:
                print(f"error: {line}", file=sys.stderr)
        sys.exit(code or 0)


def _told(error: Exception) -> tuple[list[str], int]:
    """Return what to say of an error, and the exit code. An error of ours that nobody foresaw keeps its traceback."""
    if isinstance(error, Failure):
        return list(error.lines), error.code
    if (usage := getattr(error, "format_message", None)) is not None:  # typer's own
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(usage(), file=sys.stderr)
            return [], WRONG
        where = f" (see {context.command_path} --help)" if context is not None else ""
        return [" ".join(usage().split()) + where], WRONG
    for known in _foreseen(error):
        return known
    raise error


def _foreseen(error: Exception) -> Iterator[tuple[list[str], int]]:
    from mesh_wire.errors import AlreadyExists, BadInput, Foreign, MeshError, NotFound, Unsupported
    from mesh_wire.mesh_file import Mistakes

    if isinstance(error, Mistakes):
        yield error.lines, WRONG
    if isinstance(error, MeshError):
        line = " ".join(str(error).split())
        if isinstance(error, Foreign) and error.reason == "UNAVAILABLE":
            line += "; is a mesh running there? `expertmesh up` starts one"
        yield [line], WRONG if isinstance(error, BadInput | NotFound | Unsupported | AlreadyExists) else FAILED
    if isinstance(error, UnicodeDecodeError):
        yield ["the prompt is not UTF-8 text"], WRONG
    if isinstance(error, OSError):
        yield [f"{error.filename}: {error.strerror}" if error.filename else str(error)], FAILED


def _leave_quietly() -> NoReturn:
    """End after the reader of our output has gone, such as `head`; Python's own flush at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(FAILED)
