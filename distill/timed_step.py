"""The seconds that a net trains and answers for an image, measured in half a second: what is known before any run has
ended. A pair's step is the student's training and its teachers' answers.

The net is drawn at random, the images too; a method's own terms, the images' way to the device and evaluation are not
in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from distill import runtime
from distill.config import StudentSpec, TeacherSpec, thawed
from distill.data import DataInfo
from distill.models import FeatureNet
from distill.models import build as build_net

_FEW, _MANY = 2, 16  # images of the first step, and at most, on a CPU
_LONG = 0.25  # seconds that a timed step may take, by the first


@dataclass(frozen=True)
class NetSeconds:
    """Seconds an image: of a training step (forward, backward, SGD), and of a forward pass without gradients.

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
    """Multiply-accumulates of one image in a net that is not made but for its shapes. Raises as `net_seconds`."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        args = thawed(spec.args)
        net = build_net(spec.model, info.num_classes, in_chans=info.in_chans, size=info.size, args=args)
        return net.macs()


def net_seconds(
    spec: StudentSpec | TeacherSpec, info: DataInfo, *, device: torch.device, precision: str, batch_size: int
) -> NetSeconds:
    """Time a net on images such as `info` tells of; on a CPU on fewer than a batch. The global random state is left
    alone. Raises ValueError and RuntimeError where it cannot be made or run.
    """
    with torch.random.fork_rng(devices=[]):
        channels, size, args = info.in_chans, info.size, thawed(spec.args)
        net = build_net(spec.model, info.num_classes, in_chans=channels, size=size, args=args, seed=0).to(device)
        timer = _Timer(net, device, precision)
        if device.type == "cpu":
            first = timer.step(_images(info, _FEW))
            images = _images(info, min(batch_size, _MANY, max(int(_LONG * _FEW / first), _FEW)))
        else:
            images = _images(info, batch_size).to(device)
            for _ in range(2):  # kernels are loaded, and convolutions chosen
                timer.step(images)
        step, forward = timer.step(images), timer.forward(images)
        return NetSeconds(step / len(images), forward / len(images), macs_of(spec, info))


class _Timer:
    def __init__(self, net: FeatureNet, device: torch.device, precision: str) -> None:
        self.net, self.device, self.precision = net, device, precision
        self.optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step(self, images: Tensor) -> float:
        self.net.train()
        begun = self._now()
        with runtime.autocast(self.device, self.precision):
            logits = self.net(images).logits
        logits.float().logsumexp(1).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return max(self._now() - begun, 1e-9)

    def forward(self, images: Tensor) -> float:
        self.net.eval()
        begun = self._now()
        with torch.no_grad(), runtime.autocast(self.device, self.precision):
            self.net(images)
        return max(self._now() - begun, 1e-9)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _images(info: DataInfo, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, info.in_chans, info.size, info.size, generator=generator)
