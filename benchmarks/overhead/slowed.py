"""A service made slower by a share of its own CPU, to show that the gate sees it.

`python -m benchmarks.overhead.slowed SHARE MODULE ARGUMENTS...` runs a module as `python -m` does. A thread beside it
looks every few milliseconds at what the rest of the process has used, and uses that share of it itself, its own
looking included: whatever the service does then costs so much more, without a change of its code.
"""

import runpy
import sys
import threading
import time

LOOK_EVERY_S = 0.02


def burn(share: float) -> None:
    """Use `share` of what the rest of this process uses, for ever."""
    while True:
        time.sleep(LOOK_EVERY_S)
        while (mine_s := time.thread_time()) < share * (time.process_time() - mine_s):
            pass


def main() -> None:
    share, module, *arguments = sys.argv[1:]
    threading.Thread(target=burn, args=(float(share),), daemon=True, name="planted").start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
