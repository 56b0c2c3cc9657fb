"""Real steps of a run's method on nets and images drawn at random: what they take is known before anything is trained.

A method's own terms, views, further nets, generators and what comes before distillation are in it, and so are the
teachers' answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, count
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

import distill.runtime as runtime
from distill.config import RunSpec, instantiate, thawed
from distill.content.readers import Arrays, Part
from distill.criterion import criterion_of
from distill.data import Data, DataInfo
from distill.data.loading import from_arrays
from distill.engine.compiling import compile_forward, trains
from distill.engine.optim import Stepper
from distill.engine.trial import Pieces, TooLong, training_step
from distill.engine.update import take_step, train_mode
from distill.method import Losses, Method, Phase, Update
from distill.models import FeatureNet
from distill.preflight import random_nets
from distill.teachers.forward import FrozenTeachers, Teachers

_MANY, _FEW = 64, 2  # images of a step, at most and at least, on a CPU
_ROWS = 50_000  # training images that a method hears of, at most: of each it may keep a row
_BATCHES = ("batch_size", "student_batch")  # keys of methods that make their images, or hold to a batch's number
_STEPS = 4  # batches that there are
_MACS = 16e9  # of the step of a machine's trial
_FIRST, _EACH, _COMPILING = 15.0, 240.0, 600.0  # seconds of computing till its first step is done, and for more
_OF_STEPS = ("accumulate", "mixup", "cutmix", "loss", "label_smoothing", "optimizer")  # of a schedule


class Rehearsal:
    """A run's method, built as the run builds it, and batches for it.

    rows: training images that there will be. macs: multiply-accumulates of the nets in a step, by which its images are
    counted on a CPU; on a GPU they are a batch. limit: seconds for it all. made: images that the method makes a step.
    The global random state is the caller's to keep. Raises TooLong, ValueError and what torch raises where the method
    cannot be made or takes no step of such images.
    """

    def __init__(
        self, spec: RunSpec, info: DataInfo, rows: int, *, device: torch.device, precision: str, macs: float,
        limit: float,
    ) -> None:
        torch.manual_seed(0)
        self.spec, self.device = spec, device
        self._forwards: dict[str, Teachers] = {}
        student, self.teachers = random_nets(spec, info)
        self.allow(limit)
        for net in (student, *self.teachers):
            net.register_forward_pre_hook(lambda *_: self._check())  # a function: copies of a net do not copy this
        self.batch = spec.schedule.batch_size
        if device.type == "cpu":
            image = 3 * student.macs() + sum(net.macs() for net in self.teachers)
            self.batch = min(self.batch, _MANY, max(int(macs / image), _FEW))
        node = dict(spec.method.node)
        self.made = int(node["batch_size"]) if spec.method.is_data_free else 0
        if own := node.get("batch_size"):
            node |= {key: max(round(node[key] * min(self.batch / own, 1.0)), 1) for key in _BATCHES if key in node}
        self.method = _method(spec, node, student, self.teachers, _of_rows(info, min(rows, _ROWS)), device)
        self.use(precision)
        given = {key: value for key in ("mixup", "cutmix") if (value := getattr(spec.schedule, key))}
        images = _images(spec, info, _STEPS * self.batch, device)
        self.source = images.source(batch_size=self.batch, seed=0, **given)

    def allow(self, seconds: float) -> None:
        """From now on nets may be asked for so many seconds of computing, after which they raise TooLong."""
        self._limit, self._end = seconds, time.process_time() + seconds * torch.get_num_threads()

    def _check(self) -> None:
        if time.process_time() > self._end:
            raise TooLong(f"more than {self._limit:g} s")

    def use(self, precision: str) -> None:
        """Compute in a precision from now on."""
        if precision not in self._forwards:
            frozen = FrozenTeachers(self.teachers, runtime.DTYPES[precision])
            self._forwards[precision] = Teachers(forward=frozen)
        self.method.teacher_forward = self._forwards[precision]
        self.autocast = partial(runtime.autocast, self.device, precision)

    def begun(self, phase: Phase) -> BegunPhase:
        """A phase of the method, after those before it."""
        if phase.begin:
            phase.begin()
        return BegunPhase(self, phase)


class BegunPhase:
    """A phase to take steps of. shown: the images of an epoch, as a share of the training images or, where the method
    makes its images, their number.
    """

    def __init__(self, of: Rehearsal, phase: Phase) -> None:
        schedule = of.spec.schedule.merged(phase.schedule)
        source: Any = phase.source(of.source) if phase.source else of.source
        steps = source.steps
        self.shown = steps / of.source.steps if abs(steps - of.source.steps) > 1 else 1.0  # of few one may be left out
        self.shown = float(steps * of.made) if of.made else self.shown
        self.of, self.parts = of, of.spec.schedule.accumulate
        self.updates = [
            (each, (each.stepper or Stepper)(each.trains, schedule.merged(each.optimizer))) for each in phase.updates
        ]
        of.method.epoch, of.method.epochs, of.method.step = 1, of.spec.schedule.epochs, 0
        of.method.before_epoch()
        train_mode(of.method, phase)
        self.batches: Iterator[Any] = chain.from_iterable(source.epoch(epoch) for epoch in count(1))
        self.batch: Any = None
        self.losses: Losses = {}

    def take(self, update: Update, stepper: Any) -> None:
        """One step of an update on the present batch."""
        self.losses |= take_step(self.of.method, update, stepper, self.batch, self.of.autocast, self.parts)

    def step(self) -> None:
        """A step of the loop, but of each update once."""
        self.batch, self.losses = next(self.batches), {}
        for update, stepper in self.updates:
            self.take(update, stepper)
        self.of.method.after_step()
        self.of.method.step += 1

    def pieces(self) -> Pieces:
        """What a step of the loop does, and how often: `step`, and once more each update that is repeated."""
        more = [(partial(self.take, *each), each[0].repeat - 1) for each in self.updates if each[0].repeat > 1]
        return [(self.step, 1), *more]


class StudentTrial:
    """A step of the run's student without its method, in training on labels: the same for all methods of a table."""

    def __init__(self, spec: RunSpec, info: DataInfo, images: int) -> None:
        self._make = partial(random_nets, replace(spec, teachers=()), info)
        self._batch = min(spec.schedule.batch_size, _MANY)
        self.words, self.count = spec.student.name, spec.schedule.epochs * images / self._batch
        net, shape = [spec.student.model, thawed(spec.student.args)], [info.num_classes, info.in_chans, info.size]
        self.known_by: dict[str, Any] = {"net": net, "images": shape, "batch": self._batch}

    def step(self, precision: str) -> Pieces:
        """What a step does in a precision."""
        return [(training_step(self._student, self._batch, precision), 1)]

    @cached_property
    def _student(self) -> FeatureNet:
        return self._make()[0].to(memory_format=torch.channels_last)


class MachineTrial:
    """The step that a run takes most often, for what is decided by timing it on this machine (engine.choices). It is
    made when it is asked for.

    images: that the run is trained on in an epoch.
    """

    def __init__(self, spec: RunSpec, info: DataInfo, images: int) -> None:
        self.spec, self.info, self.images = spec, info, images
        self.alone = StudentTrial(spec, info, images)
        self.words = f"{spec.method.name} with {spec.student.name}"
        self.teacher = spec.teachers[0].name if spec.teachers else None

    @property
    def known_by(self) -> dict[str, Any]:
        """What sets the trial apart from others, beside the machine."""
        spec, info = self.spec, self.info
        node = {key: value for key, value in thawed(spec.method.node).items() if key != "about"}
        schedule = {key: thawed(getattr(spec.schedule, key)) for key in ("batch_size", *_OF_STEPS)}
        return {
            "method": node,
            "code": spec.hashed["method"].get("code"),  # of a plugin's: its steps are others where that is
            "nets": [[net.model, thawed(net.args)] for net in (spec.student, *spec.teachers)],
            "schedule": schedule,
            "images": [info.num_classes, info.in_chans, info.size, min(info.num_train, _ROWS)],
        }

    @property
    def length(self) -> list[int]:
        """Of the run: its epochs and their images."""
        return [self.spec.schedule.epochs, self.images]

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        given: dict[str, Any] = {"device": torch.device("cpu"), "precision": "fp32", "macs": _MACS, "limit": _FIRST}
        return Rehearsal(self.spec, self.info, self.info.num_train, **given)

    @cached_property
    def _begun(self) -> tuple[BegunPhase, int]:
        """The longest phase, with its epochs: the last of several."""
        phases = self._rehearsal.method.phases()
        epochs = [self.spec.schedule.epochs if phase.epochs is None else phase.epochs for phase in phases]
        longest = max(range(len(phases)), key=lambda k: (epochs[k], k))
        for phase in phases[:longest]:
            if phase.begin:
                phase.begin()
        begun = self._rehearsal.begun(phases[longest])
        begun.step()
        return begun, epochs[longest]

    @property
    def teachers(self) -> list[FeatureNet]:
        """The run's teachers, of random weights."""
        return self._rehearsal.teachers

    @property
    def batch(self) -> int:
        """Images of a step."""
        return len(self._begun[0].batch.index)

    @property
    def count(self) -> float:
        """How many such steps the run takes."""
        begun, epochs = self._begun
        return epochs * begun.shown * (1 if self._rehearsal.made else self.images) / self.batch

    def step(self, precision: str) -> Pieces:
        """What a step does in a precision, and how often."""
        begun, _ = self._begun
        self._rehearsal.allow(_EACH)
        return [(partial(self._in, precision, work), times) for work, times in begun.pieces()]

    def _in(self, precision: str, work: Callable[[], None]) -> None:
        self._rehearsal.use(precision)
        work()

    def compile(self) -> None:
        """Compile the nets that are trained, for batches of this size."""
        self._rehearsal.allow(_COMPILING)
        for net in self._rehearsal.method.modules():
            if isinstance(net, FeatureNet) and trains(net):
                compile_forward(net, self.batch)


def _of_rows(info: DataInfo, count: int) -> DataInfo:
    return replace(info, num_train=count, labels=None if info.labels is None else info.labels[:count])


def _method(
    spec: RunSpec,
    node: dict[str, Any],
    student: FeatureNet,
    teachers: list[FeatureNet],
    info: DataInfo,
    device: torch.device,
) -> Method:
    for net in teachers:
        net.to(device).requires_grad_(False).eval()
    method: Method = instantiate(MappingProxyType(node), student.to(device), teachers, info)
    schedule = spec.schedule
    method.criterion = criterion_of(schedule.loss, schedule.label_smoothing, schedule.bce_threshold)
    return method.to(device).to(memory_format=torch.channels_last)


def _images(spec: RunSpec, info: DataInfo, least: int, device: torch.device) -> Data:
    """Images drawn at random of the data's shape, in memory: as many of each class, where there are few."""
    data, classes = spec.dataset, max(info.num_classes, 1)
    number = -(-least // classes) * classes if classes <= least else least
    shape = number, int(data.size), int(data.size), int(data.in_chans)
    part = Part(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8), np.arange(number) % classes)
    whole: dict[str, Any] = {"omit": (), "fraction": 1.0, "shots": None, "holdout": 0.0, "classes": None}
    arrays = Arrays(part, part, [str(k) for k in range(max(classes, 2))])
    return from_arrays(arrays, replace(data, num_classes=None, resize=False, **whole), device)
