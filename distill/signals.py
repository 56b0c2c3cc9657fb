"""Signals that ask a run to stop: it saves at the next step and leaves with a code of its own."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from distill.errors import Stopped

STOPPING = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")


class StopSignals:
    """Within the context, the first signal sets `received`; a second SIGINT interrupts at once.

    Handlers can only be set in the main thread; elsewhere the context does nothing. `previous` keeps what was
    installed before, so that a launcher's own handler can be called after the state is saved.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                if number := getattr(signal, name, None):
                    self.previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _stopped_by
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped):
            _stopped_by = self.received


_stopped_by: int | None = None  # the signal that a run of this process saved and left for


def hand_back() -> bool:
    """Call the earlier handler of the signal that stopped a run: a launcher's, which requeues the job.

    To be called once the run has saved and let go of everything. Returns True when the handler returned: then
    the run should go on. False where no run was stopped, or nobody else had a handler for the signal.
    """
    global _stopped_by
    number, _stopped_by = _stopped_by, None
    handler = signal.getsignal(number) if number is not None else None
    if number is None or not callable(handler) or handler is signal.default_int_handler:
        return False
    handler(number, None)
    return True
