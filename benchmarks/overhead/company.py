"""Keeps every core awake, so that a machine that does nothing else costs what a busy one does.

A core that sleeps between two messages takes longer for each of them, by a third on some machines: it has to be woken,
by the hypervisor too, and its clock is low. Here each core has a process of the lowest class there is, which any other
process displaces at once.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_SPIN = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with whoever started it
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.getppid() == int(sys.argv[2]):
    for _ in range(10_000_000):
        pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep the cores that may be used awake, until the block ends."""
    with ExitStack() as life:
        for core in sorted(os.sched_getaffinity(0)):
            spinner = subprocess.Popen([sys.executable, "-c", _SPIN, str(core), str(os.getpid())])  # noqa: S603 - ours
            life.callback(spinner.wait)
            life.callback(spinner.kill)
        yield
