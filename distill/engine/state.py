"""What the loop keeps beside the method: where it is, how well it did, how fast, and how it was told to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from distill.models import FeatureNet

if TYPE_CHECKING:
    from distill.data.waiting import WaitTimer
    from distill.engine.cuda_graphs import Graph


class Callback(Protocol):
    """What the loop calls as it goes on; see record.reporter.Reporter."""

    def begin_epoch(self, phase: str, epoch: int, epochs: int, epochs_left: int, steps: int, done: int) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def best(self, net: FeatureNet) -> None: ...
    def flush(self) -> None: ...  # write what waits, before a checkpoint says that it was. Raises SaveError


@dataclass
class Position:
    """The next step to run."""

    phase: int = 0
    epoch: int = 1  # 1-based, in the phase
    step: int = 0  # 0-based, in the epoch
    total: int = 0  # steps done in all phases
    over: bool = False  # the epoch's steps are done, and what the method does after them


@dataclass
class Score:
    """Test accuracy in percent: of the last epoch, of the best, and of the best of all nets that may be chosen."""

    last: float | None = None
    best: float | None = None
    best_epoch: int | None = None  # counted over the phases that are evaluated
    best_net: float | None = None  # None where there is one net to choose
    beside: dict[str, float] = field(default_factory=dict)  # of what schedule.ema has beside what is exported, the last

    def note(self, accuracy: float, candidates: Sequence[float], epoch: int) -> bool:
        """Count an epoch's accuracy, and those of the nets that might be chosen in its place; True for the best."""
        self.last = accuracy
        if candidates:
            self.best_net = max(accuracy, *candidates, self.best_net or 0.0)
        best = self.best is None or accuracy > self.best
        if best:
            self.best, self.best_epoch = accuracy, epoch
        return best


@dataclass
class Options:
    """How to run, none of which changes what is computed on the CPU in fp32."""

    autocast: Callable[[], AbstractContextManager[Any]]
    scale: bool = False  # fp16 gradient scaling
    log_every: int = 50
    save_seconds: float = 300.0
    epoch_seconds: float = 0.0  # an epoch that ends sooner than this after the last checkpoint gets none
    evaluate_every: int = 1
    overlap: bool = True  # an epoch may be measured beside the steps of the next, where these are replayed
    graph: Callable[[Any], Graph] | None = None  # makes what steps are recorded in; None: they run eagerly


@dataclass
class Speed:
    """Training rate: images and seconds between reads of the meter, of each session the first (warm-up) left out.

    Over all sessions of a run; `before` are the seconds of those that are over, up to the state that was restored.
    `waited` of the seconds went by without a batch to train on. Sources that read files note that in `waits`.
    """

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    lately: float = 0.0  # the share that was waited before the last read
    before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _waits: WaitTimer | None = None
    _warm: bool = False
    _mark: float = 0.0

    def resume(self, source: Any = None, stream: Any = None) -> None:
        """Training on a source goes on; `stream`: where a GPU computes the steps, if not on the current one."""
        self._waits = getattr(source, "waits", None)
        if self._waits:
            self._waits.begin(stream)
        self._mark = time.perf_counter()

    def read(self, images: int) -> None:
        """Note the images since the last read, once the device is done with them."""
        now = time.perf_counter()
        seconds, waited = now - self._mark, self._waits.take() if self._waits else 0.0
        if self._warm:
            self.images, self.seconds, self.waited = self.images + images, self.seconds + seconds, self.waited + waited
        self.lately = min(waited / seconds, 1.0)
        self._warm, self._mark = True, now

    @property
    def rate(self) -> float | None:
        """Images a second; None where too few reads were made to tell."""
        return self.images / self.seconds if self.seconds else None

    @property
    def seconds_spent(self) -> float:
        """Seconds of the run, in all of its sessions."""
        return self.before + time.monotonic() - self.began

    def state_dict(self) -> dict[str, float]:
        """Return what a later session goes on counting from."""
        return {"images": self.images, "seconds": self.seconds, "waited": self.waited, "before": self.seconds_spent}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.images, self.seconds = int(state["images"]), state["seconds"]
        self.waited, self.before = state["waited"], state["before"]

    @property
    def waiting(self) -> float | None:
        """The share of the time, 0 to 1, that was waited; None where data lies in memory or no time was measured."""
        return min(self.waited / self.seconds, 1.0) if self._waits and self.seconds else None

    def to_row(self, *, lately: bool = False) -> dict[str, float | None]:
        """Return what a row of the log says: means over the run, or how much was waited since the read before."""
        share = {"waiting": self.lately if lately else self.waiting} if self._waits else {}
        return {"images_per_second": self.rate, **share}
