"""A service as a process: its start, its log, its signals, its end."""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Any

from mesh_wire.discreet import DiscreetFormatter

log = logging.getLogger(__name__)

STOPPED, FAILED, MISCONFIGURED = 0, 1, 2  # exit codes
_PR_SET_PDEATHSIG = 1


async def terminated() -> signal.Signals:
    """Wait for SIGINT or SIGTERM; returns which came. A second one has its default effect: the end at once."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()
    both = (signal.SIGINT, signal.SIGTERM)

    def note(which: signal.Signals) -> None:
        for each in both:
            loop.remove_signal_handler(each)
        if not came.done():
            came.set_result(which)

    for each in both:
        loop.add_signal_handler(each, note, each)
    return await came


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a service to its end on uvloop where that is installed; returns its exit code."""
    try:
        import uvloop
    except ImportError:
        log.info("the event loop is asyncio's own; uvloop is not installed")
        return asyncio.run(main)
    log.info("the event loop is uvloop %s", version("uvloop"))
    return uvloop.run(main)


def begin(level: str | None = None, *, who: str = "") -> None:
    """Set up a service process: its log on standard error, and its end with that of the process that started it.

    `EXPERTMESH_PARENT` names that process; when it is gone the service gets SIGTERM, so that nothing is left behind
    even by a parent that was killed. `EXPERTMESH_LOG` is the log's level, INFO by default.

    Args:
        who: stands in every line of the log; where several processes write to one.
    """
    said = f"{who}: %(message)s" if who else "%(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(DiscreetFormatter(f"%(asctime)s %(levelname)s %(name)s: {said}"))
    logging.basicConfig(
        level=level or os.environ.get("EXPERTMESH_LOG", "INFO").upper(),
        handlers=[handler],
        force=bool(who),  # a fork has its parent's log set up already
    )
    parent = os.environ.get("EXPERTMESH_PARENT", "")
    if parent.isdecimal() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it was gone before we asked
            sys.exit(FAILED)


def settle() -> None:
    """Call when start-up is over: what lives as long as the process is no longer searched for garbage.

    With a thousand open streams, Python's default would search them all, for milliseconds, after every few hundred
    tokens. Our requests leave no cycles behind; gRPC leaves one of five objects for each call. So collections are
    seldom, but not so seldom that what waits for them is taken for a leak: 50,000 objects were 8 MB, and took minutes
    to gather.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def say_error(error: object) -> None:
    """Print failures as the last lines of standard error, one line each."""
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"error: {line}", file=sys.stderr, flush=True)
