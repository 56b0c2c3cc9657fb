"""Signals that ask a run to stop: it saves at the next step and leaves with a code of its own."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
