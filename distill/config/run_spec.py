"""What a run is told: frozen, typed, and all that is seen of the configuration below `run.run`.

What trains a teacher, or a student first, is a RunSpec as well and lies within. `resolving.resolve` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config.data_spec import DataSpec
from distill.config.schedule_spec import ScheduleSpec


@dataclass(frozen=True)
class NetSpec:
    """A net by its name in conf/, and how it is built. mean, std: of the images it was trained on, None: the data's."""

    name: str
    model: str
    args: Mapping[str, Any]
    lr_scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pretrained: bool  # weights of timm's


@dataclass(frozen=True)
class StudentSpec(NetSpec):
    """weights: a file to start from; upstream: the run that trains it first; quantize: bits seen in training."""

    weights: Path | None
    upstream: RunSpec | None
    quantize: Mapping[str, Any] | None


@dataclass(frozen=True)
class TeacherSpec(NetSpec):
    """weights: auto, pretrained, none or a file; training: the run whose student it is, for auto, and best: as that was
    at its best epoch, not its last. size: pixels of its images; None: the data's, or its own where it teaches features
    alone.
    """

    weights: str
    size: int | None
    seed: int
    training: RunSpec | None
    best: bool


@dataclass(frozen=True)
class MethodSpec:
    """A method by its name in conf/method, and its node there, of which `build` makes it.

    taps: what it reads of its nets' outputs; reads: what of its teachers', nothing where it has none.
    departs: what it does otherwise than its paper.
    """

    name: str
    node: Mapping[str, Any]
    taps: frozenset[str]
    reads: frozenset[str]
    departs: str | None

    @property
    def convention(self) -> dict[str, Any]:
        """Its loss weights, as many as it has."""
        return {key: self.node[key] for key in ("ce", "kd", "weight") if key in self.node}

    @property
    def is_data_free(self) -> bool:
        """Whether it makes its images, `batch_size` a step."""
        return bool((self.node.get("about") or {}).get("kind") == "data-free")

    def batches(self, steps: int, size: int, epochs: int) -> tuple[int, int]:
        """Steps of a run and images that the student sees in one: those of the schedule, or of a method that makes its
        images its own.
        """
        if not self.is_data_free:
            return steps, size
        own = self.node.get("student_batch", self.node.get("batch_size", size))
        return (epochs * int(self.node["steps"]) if "steps" in self.node else steps), int(own)

    @property
    def temperature(self) -> float | None:
        """Of its soft targets, where it has one."""
        return self.node.get("temperature")


NEIGHBOURS = 20
"""That vote (facebookresearch/dino, eval_knn.py: the best of 10, 20, 100 and 200)."""


@dataclass(frozen=True)
class EvaluateSpec:
    """What is measured of frozen features: knn after each epoch, a linear probe at the end. images: 0 is all."""

    knn: bool
    probe: bool
    neighbours: int
    images: int

    def check(self, known: int | None) -> None:
        """Raise ValueError where more training images are asked for than there are with labels; None: not known yet."""
        if known is None or not (self.knn or self.probe):
            return
        there = f"there are {known} training images with labels: give less"
        if self.images > known:
            raise ValueError(f"evaluate.images={self.images}: {there}")
        if self.knn and self.neighbours > (self.images or known) and self.neighbours != NEIGHBOURS:
            raise ValueError(f"evaluate.neighbours={self.neighbours}: {there}, or more evaluate.images")


@dataclass(frozen=True)
class MachineSpec:
    """What it is computed on, and how: as asked for, which `runtime` and `engine` make out on the machine itself."""

    device: str
    precision: str
    compile: str
    cuda_graphs: str
    overlap: str  # auto: epochs are measured beside the steps of the next, where these are replayed
    sync_batchnorm: str
    threads: int | str | None  # auto: decided for long runs; None: torch's choice
    grad_checkpointing: bool  # the student's blocks are computed again for the gradient


@dataclass(frozen=True)
class RunSpec:
    """All that a run is told. `composed` is the record of the configuration, for tracking.json and W&B, as it was
    composed; nothing is read from it.
    """

    hash: str
    hashed: Mapping[str, Any]  # all that changes the result, but for the seed
    below: str  # the part of `folder` below `output`
    folder: Path
    output: Path
    seed: int
    dataset: DataSpec
    student: StudentSpec
    teachers: tuple[TeacherSpec, ...]
    teacher: str | None  # all of them as one name
    cache: str  # teacher.cache
    method: MethodSpec
    schedule: ScheduleSpec
    evaluate: EvaluateSpec
    machine: MachineSpec
    log_every: int
    save_minutes: float
    tracking: Mapping[str, Any]
    setting: tuple[str, ...]  # what makes it another task than its data set's plain one
    note: str | None  # on the protocol of the method's paper
    cautions: tuple[str, ...]  # on values that may not be what is wanted: of other classes, or after the last epoch
    alone: Path | None  # where the same student is trained without a teacher
    composed: Mapping[str, Any]
