"""An engine does not outlive the process that started it, even one that is killed and can clean up nothing.

vLLM's engine-core process does not notice that its parent is gone: it would stay, and keep its memory and the GPU.
vLLM offers one way to run a line of ours in its processes, the logging configuration; so this is a handler, which logs
nothing.
"""

import logging
import multiprocessing
import os
import threading
from functools import cache
from multiprocessing.connection import wait


class LeaveWithParent(logging.NullHandler):
    """Ends its process as soon as the parent is gone, where that is a process of `multiprocessing`."""

    def __init__(self) -> None:
        super().__init__()
        _watch()


@cache  # the configuration may be applied more than once
def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def leave_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)  # nobody is left to tell, or to clean up for

    threading.Thread(target=leave_with_parent, name="leave with parent", daemon=True).start()
