"""The seconds that a method takes for an image, by real steps of its phases on nets and images drawn at random: its own
terms, views, further nets, generators and what comes before distillation are in it, and so are the teachers' answers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

import distill.runtime as runtime
from distill.config import RunSpec
from distill.data import DataInfo
from distill.method import Phase
from distill.rehearsal import Rehearsal
from distill.timed_step import seconds_of


@dataclass(frozen=True)
class PhaseSeconds:
    """What a phase takes: seconds an image. epochs: None for the schedule's. shown: the images of an epoch, as a share
    of the training images or, where the phase makes its images (`made`), their number.
    """

    epochs: int | None
    shown: float
    made: bool
    seconds: float

    def __post_init__(self) -> None:
        """ValueError for what no timing gives: it may be read from another version's file."""
        epochs = 0 if self.epochs is None else self.epochs
        if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in (epochs, self.shown)):
            raise ValueError("no numbers")
        if not (isinstance(self.seconds, float) and self.seconds > 0 and epochs >= 0 <= self.shown):
            raise ValueError("no times")

    def whole(self, epochs: int, images: float) -> float:
        """Seconds of the phase in a run of so many epochs of so many images."""
        count = epochs if self.epochs is None else self.epochs
        return count * self.shown * (1.0 if self.made else images) * self.seconds

    def on(self, small: float, large: float) -> Self:
        """As long as the phase takes with nets of `large` seconds an image, having been timed with nets of `small`.

        Own terms grow with the nets (more maps, a further pass), or do not (a bank of embeddings): half-way, by ratios.
        """
        own = self.seconds - small
        grown = self.seconds * large / small
        return replace(self, seconds=(grown * (large + own)) ** 0.5 if own > 0 else grown)


@dataclass(frozen=True)
class MethodSeconds:
    """What the phases of a method take."""

    phases: tuple[PhaseSeconds, ...]

    @classmethod
    def read(cls, kept: Any) -> Self | None:
        """What `to_json` gave; None for anything else."""
        try:
            return cls(tuple(PhaseSeconds(**each) for each in kept["phases"]))
        except (TypeError, KeyError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def whole(self, epochs: int, images: float) -> float:
        """Seconds of a run."""
        return sum(each.whole(epochs, images) for each in self.phases)

    def on(self, small: float, large: float) -> Self:
        """With other nets, see `PhaseSeconds.on`."""
        return replace(self, phases=tuple(each.on(small, large) for each in self.phases))


def method_seconds(
    spec: RunSpec, info: DataInfo, rows: int, *, device: torch.device, precision: str, macs: float, limit: float
) -> MethodSeconds:
    """Time a step of each phase of a run's method, built as the run builds it.

    rows: training images that there will be. macs: multiply-accumulates of the nets in a step, by which its images are
    counted on a CPU; on a GPU they are a batch. limit: seconds for it all. The global random state is left alone.
    Raises TooLong, ValueError and what torch raises where the method cannot be made or takes no step of such images.
    """
    runtime.keep_pages()  # as a run does
    with torch.random.fork_rng(devices=[]):
        rehearsal = Rehearsal(spec, info, rows, device=device, precision=precision, macs=macs, limit=limit)
        return MethodSeconds(tuple(_timed(rehearsal, phase) for phase in rehearsal.method.phases()))


def _timed(rehearsal: Rehearsal, phase: Phase) -> PhaseSeconds:
    begun = rehearsal.begun(phase)
    seconds = sum(times * seconds_of(work, rehearsal.device) for work, times in begun.pieces())
    return PhaseSeconds(phase.epochs, begun.shown, bool(rehearsal.made), seconds / len(begun.batch.index))
