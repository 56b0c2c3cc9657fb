"""The seconds that a net trains and answers for an image, measured in half a second: what is known before any run has
ended. A pair's step is the student's training and its teachers' answers.

The net is drawn at random, the images too; a method's own terms (`sweep.timed_method`), the images' way to the device
and evaluation are not in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import distill.runtime as runtime
from distill.config import StudentSpec, TeacherSpec, thawed
from distill.data import DataInfo
from distill.engine.trial import frozen_forward, training_step
from distill.models import FeatureNet
from distill.models import build as build_net

_FEW, _MANY = 2, 64  # images of the first step, and at most, on a CPU
_LONG, _SHORT = 0.12, 0.1  # seconds that a timed step may take, by the first; up to which another is timed


@dataclass(frozen=True)
class NetSeconds:
    """Seconds an image: of a training step (forward, backward, SGD), and of a forward pass of the net as a teacher.

    macs: multiply-accumulates of that pass, by which a net that nobody has timed is estimated.
    """

    step: float
    forward: float
    macs: int

    def of(self, macs: int) -> NetSeconds:
        """As long as a net of so many multiply-accumulates takes where it computes as fast."""
        share = macs / max(self.macs, 1)
        return NetSeconds(self.step * share, self.forward * share, macs)


def macs_of(spec: StudentSpec | TeacherSpec, info: DataInfo) -> int:
    """Multiply-accumulates of one image, of a net that is made for its shapes alone where that can be: timm's are read
    by comparing values. Raises as `net_seconds`.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _net(spec, info).macs()
        except NotImplementedError:
            return _net(spec, info).macs()


def _net(spec: StudentSpec | TeacherSpec, info: DataInfo, seed: int | None = None) -> FeatureNet:
    shape: dict[str, Any] = {"in_chans": info.in_chans, "size": info.size}
    return build_net(spec.model, info.num_classes, **shape, args=thawed(spec.args), seed=seed)


def net_seconds(
    spec: StudentSpec | TeacherSpec, info: DataInfo, *, device: torch.device, precision: str, batch_size: int
) -> NetSeconds:
    """Time a net on images such as `info` tells of; on a CPU on fewer than a batch. The global random state is left
    alone. Raises ValueError and RuntimeError where it cannot be made or run.
    """
    runtime.keep_pages()  # as a run does
    with torch.random.fork_rng(devices=[]):
        net = _net(spec, info, seed=0).to(device)
        count, macs = batch_size, net.macs()
        if device.type == "cpu":
            first = seconds_of(training_step(net, _FEW, precision), device)
            count = min(batch_size, _MANY, max(int(_LONG * _FEW / first), _FEW))
        step = seconds_of(training_step(net, count, precision), device)
        forward = seconds_of(frozen_forward(net, count, precision), device)  # last, since it folds the net
        return NetSeconds(step / count, forward / count, macs)


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """Of a second step, on a GPU of a third, when kernels are made and convolutions chosen; of a short one the faster
    of two. On a CPU no longer than its computing, so that a machine that is busy now does not count for the days of a
    sweep.
    """
    for _ in range(2 if device.type == "cuda" else 1):
        work()
    first = _clocked(work, device)
    return min(first, _clocked(work, device)) if first < _SHORT else first


def _clocked(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun, computed = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        computed = -math.inf
    return max(min(time.perf_counter() - begun, time.process_time() - computed), 1e-9)
