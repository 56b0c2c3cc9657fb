"""What the loop keeps beside the method: where it is, how well it did, how fast, and how it was told to run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distill.method import Phase
from distill.models import FeatureNet

if TYPE_CHECKING:
    from distill.fit import Fit


class Watcher(Protocol):
    """What the loop tells of its progress; see run.Watch."""

    def begin_epoch(self, fit: Fit, phase: Phase, steps: int) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def best(self, net: FeatureNet) -> None: ...


@dataclass
class Position:
    """The next step to run."""

    phase: int = 0
    epoch: int = 1  # 1-based, in the phase
    step: int = 0  # 0-based, in the epoch
    total: int = 0  # steps done in all phases


@dataclass
class Score:
    """Test accuracy in percent: of the last epoch, and of the best."""

    last: float | None = None
    best: float | None = None
    best_epoch: int | None = None


@dataclass
class Options:
    """How to run, none of which changes what is computed on the CPU in fp32."""

    autocast: Callable[[], AbstractContextManager[Any]]
    scale: bool = False  # fp16 gradient scaling
    log_every: int = 50
    save_seconds: float = 300.0
    evaluate_every: int = 1


@dataclass
class Speed:
    """Training rate: images and seconds between reads of the meter, the first read (warm-up) left out."""

    images: int = 0
    seconds: float = 0.0
    _warm: bool = False
    _mark: float = 0.0

    def resume(self) -> None:
        self._mark = time.perf_counter()

    def read(self, images: int) -> None:
        now = time.perf_counter()
        if self._warm:
            self.images, self.seconds = self.images + images, self.seconds + now - self._mark
        self._warm, self._mark = True, now

    @property
    def rate(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0
