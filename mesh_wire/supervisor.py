"""Several processes of one service on one port: started, started again when they die or are to be, ended together.

Linux only: its kernel spreads the connections of a port over all that listen on it.
"""

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mesh_wire import process
from mesh_wire.serving import PortTaken

log = logging.getLogger(__name__)

QUICK_S = 10.0  # a worker that dies sooner was not well from the start
TRIES = 5  # as many quick deaths in a row are a crash loop
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before a worker is started again
_STOP = (signal.SIGTERM, signal.SIGINT)
_RESTART = signal.SIGUSR1  # not SIGHUP: a terminal that closes sends that
_READY = signal.SIGRTMIN  # from a worker; real-time signals queue, so that none is lost in another
_HEARD = {*_STOP, signal.SIGCHLD, _RESTART, _READY}

Work = Callable[[int, Callable[[], None]], int]


@contextmanager
def held(address: str) -> Iterator[str]:
    """Keep an address for processes that share it with `SO_REUSEPORT`; yields it with the port that 0 stands for.

    Nothing listens there before the first of them does, and nobody else can while all of them are down.

    Raises:
        PortTaken: somebody else has it.
    """
    host, _, port = address.rpartition(":")
    with ExitStack() as life:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            holder = life.enter_context(socket.socket(family, kind, protocol))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or connections just closed keep us out
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(place)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or others that set it could listen
        except OSError as error:
            raise PortTaken(f"cannot listen on {address}: {error.strerror or error}") from None
        yield f"{host}:{holder.getsockname()[1]}"


@dataclass
class _Worker:
    number: int
    pid: int = 0  # 0: it does not run
    began: float = 0.0
    due: float = 0.0  # when it is to be started, in seconds of `time.monotonic`
    quick_deaths: int = 0  # in a row
    ready: bool = False


def supervise(work: Work, count: int) -> int:
    """Run `work` in `count` processes until SIGTERM or SIGINT, which end them by SIGTERM; returns the exit code.

    The first is ready before the others start: what keeps it from its work is said once. A worker that dies is started
    again. SIGUSR1 starts all of them again, one after the other, each ready before the next ends, so that callers
    always find all but one. All are ended when one is in a crash loop, which is said, or when the first finds itself
    misconfigured, which it says itself. A worker gets SIGTERM when the supervisor is gone.

    Args:
        work: takes the worker's number, from 1, and what it calls when it is ready; returns its exit code. Called in a
            fork of this process, which must therefore have no threads and no use of gRPC behind it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        return _Supervisor(work, count).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Supervisor:
    def __init__(self, work: Work, count: int) -> None:
        self._work = work
        self._workers = [_Worker(number) for number in range(1, count + 1)]
        self._proven = False  # whether any worker has been ready
        self._to_restart: list[_Worker] = []  # in this order
        self._restarting: _Worker | None = None  # told to end, and not ready again yet
        self._code: int | None = None  # set: all are being ended
        self._crash_loop = ""

    def run(self) -> int:
        while self._code is None or self._running:
            if self._code is None:
                self._start_due()
            told = signal.sigtimedwait(_HEARD, self._pause_s())
            if told is not None:
                self._heed(told)
            for worker in self._running:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._ended(worker, os.waitstatus_to_exitcode(status))
            if self._code is None:
                self._restart_next()
        if self._crash_loop:
            process.say_error(self._crash_loop)
        return self._code

    @property
    def _running(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.pid]

    @property
    def _startable(self) -> list[_Worker]:
        wanted = self._workers if self._proven else self._workers[:1]
        return [worker for worker in wanted if not worker.pid]

    def _heed(self, told: signal.struct_siginfo) -> None:
        if told.si_signo in _STOP:
            log.info("all workers end after %s", signal.Signals(told.si_signo).name)
            self._end(process.STOPPED)
        elif told.si_signo == _RESTART:
            log.info("all workers are started again, one after the other")
            self._to_restart = list(self._workers)
        elif told.si_signo == _READY:
            for worker in self._running:
                if worker.pid == told.si_pid:
                    worker.ready = self._proven = True

    def _restart_next(self) -> None:
        """End the next worker that is to be started again, once all are ready."""
        if self._to_restart and all(worker.ready for worker in self._workers):
            self._restarting = self._to_restart.pop(0)
            self._restarting.ready = False
            os.kill(self._restarting.pid, signal.SIGTERM)

    def _pause_s(self) -> float:
        """Return how long there is nothing to do, if nothing happens."""
        waiting = [worker.due for worker in self._startable]
        return max(0.0, min(waiting) - time.monotonic()) if waiting and self._code is None else 3600.0

    def _start_due(self) -> None:
        for worker in self._startable:
            if worker.due <= time.monotonic():
                supervisor = os.getpid()
                worker.pid = os.fork()
                if not worker.pid:
                    _become(self._work, worker.number, supervisor)
                worker.began = time.monotonic()
                log.info("worker %d is process %d", worker.number, worker.pid)

    def _end(self, code: int) -> None:
        if self._code is None:
            self._code = code
        for worker in self._running:
            os.kill(worker.pid, signal.SIGTERM)

    def _ended(self, worker: _Worker, code: int) -> None:
        worker.pid = 0
        worker.ready = False
        if self._code is not None:
            if self._code == process.STOPPED and code not in (process.STOPPED, -signal.SIGTERM):
                log.error("worker %d %s instead of draining", worker.number, _how(code))
                self._code = process.FAILED
            return
        now = time.monotonic()
        if worker is self._restarting:
            self._restarting = None
            log.info("worker %d %s, as it was told", worker.number, _how(code))
            worker.due = now
            return
        if code == process.MISCONFIGURED:
            if not self._proven:
                self._end(code)
                return
            log.error("worker %d finds itself misconfigured, as it was not before; the others go on", worker.number)
            self._to_restart.clear()
            worker.due = now + LONGEST_PAUSE_S
            return
        was_well = code == process.STOPPED or now - worker.began >= QUICK_S  # the former: somebody told it to stop
        worker.quick_deaths = 0 if was_well else worker.quick_deaths + 1
        if worker.quick_deaths == TRIES:
            self._crash_loop = f"worker {worker.number} is in a crash loop: {TRIES} times in a row it {_how(code)}"
            self._crash_loop += f" within {QUICK_S:g} s"
            self._end(process.FAILED)
            return
        pause_s = min(FIRST_PAUSE_S * 2 ** max(0, worker.quick_deaths - 1), LONGEST_PAUSE_S)
        worker.due = now + pause_s
        log.warning("worker %d %s, and is started again in %g s", worker.number, _how(code), pause_s)


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _become(work: Work, number: int, supervisor: int) -> None:
    """Be a worker, to the process's end: nothing of the supervisor's stack is returned to."""
    code = process.FAILED
    try:
        # SIGINT stays blocked: Ctrl-C reaches all processes of a terminal, and the supervisor answers to it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD - {signal.SIGINT})
        os.environ["EXPERTMESH_PARENT"] = str(supervisor)
        process.begin(who=f"worker {number}")
        code = work(number, lambda: os.kill(supervisor, _READY))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else process.FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
