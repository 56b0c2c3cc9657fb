"""Signals that ask a run to stop: a step of training is finished and saved first, anything else is left at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from distill.errors import INTERRUPTED, STOPPED, Stopped, exit_code

GOES_ON = "the same command goes on"
STOPPING = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")


def stop_signals() -> set[int]:
    """Those that this machine knows."""
    return {int(number) for name in STOPPING if (number := getattr(signal, name, None))}


class _Process:
    """What all contexts of the process share: a teacher that a run trains is stopped by the run's signal."""

    contexts: list[StopSignals] = []
    deferred = 0  # blocks that are open in which a signal is only noted
    stopped_by: int | None = None  # the signal that a run of this process saved and left for


class StopSignals:
    """Within the context, the first signal sets `received`, in contexts around it too; a second SIGINT interrupts.

    at_once: what happens here can be left at any moment, so that a signal raises Stopped where it comes, unless a
    `deferred` block is open: a run that waits for a lock, loads, measures or writes its result loses nothing.

    Handlers can only be set in the main thread; elsewhere the context does nothing. `previous` keeps what was
    installed before, so that a launcher's own handler can be called after the state is saved.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.received = _Process.contexts[-1].received if _Process.contexts else None
            _Process.contexts.append(self)
            for number in stop_signals():
                self.previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one ends the process
            raise KeyboardInterrupt
        for context in (self, *_Process.contexts):
            context.received = number
        _leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self in _Process.contexts:
            _Process.contexts.remove(self)
        if isinstance(error, Stopped) and self.received is not None:
            _Process.stopped_by = self.received


def stopped(number: int, state: str = "") -> Stopped:
    """The exception that ends a run for a signal; state: of what it was at, where there is more to say."""
    code = INTERRUPTED if number == signal.SIGINT else STOPPED
    return Stopped(f"stopped by {signal.Signals(number).name}: {state and state + '; '}{GOES_ON}", code)


def leave(number: int, state: str = "") -> NoReturn:
    """End the process for a signal, with a line on the terminal and the exit code that stands for it."""
    sys.exit(report_stop(stopped(number, state)))


def report_stop(error: BaseException) -> int:
    """Print why the program ends, for a Stopped or a KeyboardInterrupt, and return its exit code."""
    print(f"distill: {str(error) or 'interrupted'}", file=sys.stderr)
    return exit_code(error)


@contextmanager
def deferred() -> Iterator[None]:
    """A block that a signal does not cut off: who is in it looks at `received`, saves, and raises Stopped."""
    _Process.deferred += 1
    try:
        yield
    finally:
        _Process.deferred -= 1
    _leave()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within a `deferred` block, one that may be left at once, if that is the only one: other runs may be training."""
    _Process.deferred -= 1
    try:
        _leave()
        yield
    finally:
        _Process.deferred += 1


def _leave() -> None:
    """Raise Stopped where a signal has come and nothing holds it."""
    innermost = _Process.contexts[-1] if _Process.contexts else None
    if innermost and innermost.at_once and innermost.received is not None and not _Process.deferred:
        raise stopped(innermost.received)


def leave_to_parent(_: int = 0) -> None:
    """In a process that works for this one: leave stop signals, which Slurm, `timeout` or a terminal send to all of a
    job's processes, to the one that saves. Ended by the process that started it alone, and with that.
    """
    for number in stop_signals() - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which tells who has sent it; macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()


def _end_for(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def call_previous_handler() -> bool:
    """Call the earlier handler of the signal that stopped a run: a launcher's, which requeues the job.

    To be called once the run has saved and let go of everything. Returns True when the handler returned: then
    the run should go on. False where no run was stopped, or nobody else had a handler for the signal.
    """
    number, _Process.stopped_by = _Process.stopped_by, None
    handler = signal.getsignal(number) if number is not None else None
    ours = isinstance(getattr(handler, "__self__", None), StopSignals)
    if number is None or not callable(handler) or ours or handler is signal.default_int_handler:
        return False
    handler(number, None)
    return True
