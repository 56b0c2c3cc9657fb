"""The seconds that a method takes for an image, by real steps of its phases on nets and images drawn at random: its own
terms, views, further nets, generators and what comes before distillation are in it, and so are the teachers' answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, count
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch

import distill.runtime as runtime
from distill.config import RunSpec, instantiate
from distill.content.readers import Arrays, Part
from distill.criterion import criterion_of
from distill.data import Data, DataInfo
from distill.data.loading import from_arrays
from distill.engine.optim import Stepper
from distill.engine.update import take_step, train_mode
from distill.method import Method, Phase, Update
from distill.models import FeatureNet
from distill.preflight import random_nets
from distill.sweep.speeds import is_data_free
from distill.teachers.forward import FrozenTeachers, Teachers
from distill.timed_step import seconds_of

_Autocast = Callable[[], AbstractContextManager[Any]]
_MANY, _FEW = 64, 2  # images of a step, at most and at least, on a CPU
_ROWS = 50_000  # training images that a method hears of, at most: of each it may keep a row
_BATCHES = ("batch_size", "student_batch")  # keys of methods that make their images, or hold to a batch's number
_STEPS = 4  # batches that there are


class TooLong(RuntimeError):
    """A phase does more before or in a step than a plan has time for: it synthesises images for minutes, say."""


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
        torch.manual_seed(0)
        student, teachers = random_nets(spec, info)
        _end_after(limit, [student, *teachers])
        batch = spec.schedule.batch_size
        if device.type == "cpu":
            image = 3 * student.macs() + sum(net.macs() for net in teachers)
            batch = min(batch, _MANY, max(int(macs / image), _FEW))
        node = dict(spec.method.node)
        made = int(node["batch_size"]) if is_data_free(spec) else 0
        if own := node.get("batch_size"):
            node |= {key: max(round(node[key] * min(batch / own, 1.0)), 1) for key in _BATCHES if key in node}
        method = _method(spec, node, student, teachers, _of_rows(info, min(rows, _ROWS)), device, precision)
        given = {key: value for key in ("mixup", "cutmix") if (value := getattr(spec.schedule, key))}
        source = _images(spec, info, _STEPS * batch, device).source(batch_size=batch, seed=0, **given)
        autocast = partial(runtime.autocast, device, precision)
        return MethodSeconds(tuple(_timed(method, each, spec, source, made, autocast) for each in method.phases()))


def _of_rows(info: DataInfo, count: int) -> DataInfo:
    return replace(info, num_train=count, labels=None if info.labels is None else info.labels[:count])


def _end_after(limit: float, nets: list[FeatureNet]) -> None:
    """Let nets raise TooLong when they are asked for anything after so many seconds of computing."""
    end = time.process_time() + limit * torch.get_num_threads()

    def check(*_: Any) -> None:
        if time.process_time() > end:
            raise TooLong(f"more than {limit:g} s")

    for net in nets:
        net.register_forward_pre_hook(check)


def _method(
    spec: RunSpec,
    node: dict[str, Any],
    student: FeatureNet,
    teachers: list[FeatureNet],
    info: DataInfo,
    device: torch.device,
    precision: str,
) -> Method:
    for net in teachers:
        net.to(device).requires_grad_(False).eval()
    method: Method = instantiate(MappingProxyType(node), student.to(device), teachers, info)
    schedule = spec.schedule
    method.criterion = criterion_of(schedule.loss, schedule.label_smoothing, schedule.bce_threshold)
    method.teacher_forward = Teachers(forward=FrozenTeachers(teachers, runtime.DTYPES[precision]))
    return method.to(device).to(memory_format=torch.channels_last)


def _images(spec: RunSpec, info: DataInfo, least: int, device: torch.device) -> Data:
    """Images drawn at random of the data's shape, in memory: as many of each class, where there are few."""
    data, classes = spec.dataset, max(info.num_classes, 1)
    number = -(-least // classes) * classes if classes <= least else least
    shape = number, int(data.size), int(data.size), int(data.in_chans)
    part = Part(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8), np.arange(number) % classes)
    whole: dict[str, Any] = {"omit": (), "fraction": 1.0, "shots": None, "holdout": 0.0, "classes": None}
    arrays = Arrays(part, part, [str(k) for k in range(max(classes, 2))])
    return from_arrays(arrays, replace(data, num_classes=None, resize=None, **whole), device)


def _timed(method: Method, phase: Phase, spec: RunSpec, source: Any, made: int, autocast: _Autocast) -> PhaseSeconds:
    if phase.begin:
        phase.begin()
    trial = _Trial(method, phase, spec, phase.source(source) if phase.source else source, autocast)
    steps = trial.source.steps
    shown = steps / source.steps if abs(steps - source.steps) > 1 else 1.0  # of few steps one may be left out
    shown = float(steps * made) if made else shown
    return PhaseSeconds(phase.epochs, shown, bool(made), trial.seconds())


class _Trial:
    """A phase that has begun, to take steps of."""

    def __init__(self, method: Method, phase: Phase, spec: RunSpec, source: Any, autocast: _Autocast) -> None:
        schedule = spec.schedule.merged(phase.schedule)
        self.method, self.source, self.parts, self.autocast = method, source, spec.schedule.accumulate, autocast
        self.updates = [
            (each, (each.stepper or Stepper)(each.trains, schedule.merged(each.optimizer))) for each in phase.updates
        ]
        method.epoch, method.epochs, method.step = 1, spec.schedule.epochs, 0
        method.before_epoch()
        train_mode(method, phase)
        self.batches = chain.from_iterable(source.epoch(epoch) for epoch in count(1))
        self.batch: Any = None

    def take(self, update: Update, stepper: Any) -> None:
        """One step of an update on the present batch."""
        take_step(self.method, update, stepper, self.batch, self.autocast, self.parts)

    def step(self) -> None:
        """A step of the loop, but of each update once."""
        self.batch = next(self.batches)
        for update, stepper in self.updates:
            self.take(update, stepper)
        self.method.after_step()
        self.method.step += 1

    def seconds(self) -> float:
        """Of an image, in a step of the loop."""
        device = next(self.method.parameters()).device
        whole = seconds_of(self.step, device)
        for update, stepper in self.updates:
            if update.repeat > 1:
                whole += (update.repeat - 1) * seconds_of(partial(self.take, update, stepper), device)
        return whole / len(self.batch.index)
