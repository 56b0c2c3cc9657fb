"""How long training waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

_Item = TypeVar("_Item")


class WaitTimer:
    """The time in which training could not go on, since the next batch had not come from files.

    On CUDA that is how long the device had nothing left to do: the host is ahead of it, and may wait for long without
    holding anything up. It is read from events, so that nothing waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None
        self._marks: list[tuple[list[Any], Any]] = []

    def begin(self, stream: Any = None) -> None:
        """Forget what was not taken; `stream` is where steps are computed, where that is not the current one."""
        self._stream = stream
        self._marks.clear()

    def during(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, each noted with the time in which it was waited for."""
        iterator = iter(items)
        while True:
            since = [self._now(), *([self._now(self._stream)] if self._stream else [])]
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._marks.append((since, self._now()))
            yield item

    def take(self) -> float:
        """Seconds waited for the items since the last call; on CUDA the device must be done with the steps on them."""
        marks, self._marks = self._marks, []
        return sum(max(0.0, min(_seconds(start, end) for start in since)) for since, end in marks)

    def _now(self, stream: Any = None) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream or torch.cuda.current_stream(self.device))
        return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
