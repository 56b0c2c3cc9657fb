"""Rounding to few bits in the forward pass, with gradients that pass through: of weights, and of layers'
inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import distill.parallel as parallel

_EPS = 1e-8


class Codes(NamedTuple):
    """Whole numbers that stand for a tensor: values [G,n], in groups whose tensor values are scale x value +
    offset.
    """

    values: Tensor
    scale: Tensor  # [G,1]
    offset: Tensor  # [G,1]

    def tensor(self, shape: torch.Size) -> Tensor:
        """Return the tensor that the codes stand for; the last group may have been padded."""
        return (self.values * self.scale + self.offset).flatten()[: shape.numel()].view(shape)


def _rounded(x: Tensor) -> Tensor:
    """Round; the gradient is that of the identity (straight-through)."""
    return x + (x.round() - x).detach()


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest whole number of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def lsq(x: Tensor, step: Tensor, bits: int, signed: bool, count: int) -> Tensor:
    """Learned step size quantisation: round(clip(x / s, low, high)) x s (Esser et al., ICLR 2020,
    arXiv:1902.08153).

    Equations 1-3; the step's gradient is scaled by 1 / sqrt(count x high) (section 2.2), count being the
    number of weights, or of features of one sample.
    """
    low, high = limits(bits, signed)
    share = (count * high) ** -0.5
    s = step.abs().clamp(min=_EPS)
    s = s * share + (s * (1 - share)).detach()
    return _rounded((x / s).clamp(low, high)) * s


class StepWeights(nn.Module):
    """Weights by LSQ with one step a layer."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.enabled = bits, True
        self.step = nn.Parameter(torch.zeros((), device=weight.device))
        self.restart(weight)

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        """Set the step from weights as the paper starts it: 2 mean|w| / sqrt(high)."""
        self.step.copy_(2 * weight.abs().mean() / limits(self.bits, True)[1] ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return lsq(weight.float(), self.step, self.bits, True, weight.numel()) if self.enabled else weight

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Codes:
        step = self.step.abs().clamp(min=_EPS).view(1, 1)
        values = (weight.float().reshape(1, -1) / step).clamp(*limits(self.bits, True)).round()
        return Codes(values, step, torch.zeros_like(step))


class BucketWeights(nn.Module):
    """Weights in buckets, each scaled linearly from its smallest to its largest to 2^bits levels.

    Model compression via distillation and quantization (Polino et al., ICLR 2018, arXiv:1802.05668, section
    2).
    """

    def __init__(self, weight: Tensor, bits: int, bucket: int) -> None:
        super().__init__()
        self.bits, self.bucket, self.enabled = bits, min(bucket, weight.numel()), True

    def restart(self, weight: Tensor) -> None:
        """Nothing is kept: scales are those of the weights as they are."""

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        weight = weight.float()
        return self.codes(weight).tensor(weight.shape) + (weight - weight.detach())  # exactly the levels

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Codes:
        flat = weight.float().flatten()
        short = -len(flat) % self.bucket
        groups = torch.cat([flat, flat[-1:].expand(short)]).view(-1, self.bucket)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        span, steps = (high - low).clamp(min=_EPS), 2**self.bits - 1
        return Codes(((groups - low) / span * steps).round(), span / steps, low)  # in the authors' order: ties agree


class StepInputs(nn.Module):
    """A layer's input by LSQ; the step starts from the first training batch, until then inputs pass as they
    are.
    """

    ready: Tensor

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed, self.enabled = bits, signed, True
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._met = False  # a batch in training: what later ones would start from is not used

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self.training:
            self._start(x.detach().float())
        quantised = lsq(x.float(), self.step, self.bits, self.signed, x[0].numel())
        return torch.where(self.ready, quantised, x.float()).to(x.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._met = False  # of another state than the one that has met a batch

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        first = 2 * x.abs().mean() / limits(self.bits, self.signed)[1] ** 0.5
        if not self._met:
            first, self._met = parallel.mean(first), True
        self.step.copy_(torch.where(self.ready, self.step, first))
        self.ready.fill_(True)
