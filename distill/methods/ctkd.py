"""Curriculum temperature (Li et al., AAAI 2023, arXiv:2211.16231)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.losses import full_precision
from distill.method import Method, Nets
from distill.methods.kd import z_score

_KINDS = ("global", "instance")
_EPS = 1e-7


class Reverse(torch.autograd.Function):
    """The identity, whose gradient comes back multiplied by -strength (gradient reversal layer)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def curriculum(epoch: int, epochs: int) -> float:
    """Return the reversal's strength in an epoch (1-based): (1 - cos(pi epoch / epochs)) / 2, then 1.

    The authors' decay runs from 0 to -1 and multiplies the gradient, which is the same.
    """
    return 0.5 * (1 - math.cos(math.pi * min(epoch / epochs, 1.0))) if epochs > 0 else 1.0


@full_precision
def tempered_loss(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """T^2 KL(p_t^T || p_s^T), mean over samples, logits [B,K], temperature [1] or [B,1].

    The gradient reaches T through the softmaxes of both nets and through the factor T^2. With a temperature a sample
    1e-7 is added to the teacher's probabilities, as the authors do there.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    if temperature.ndim == 2:
        log_teacher = (log_teacher.exp() + _EPS).log()
    kl = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
    return (temperature**2 * kl).mean()


class CTKD(Method):
    """Soft targets whose temperature is learnt to MAXIMISE the loss, by a gradient reversal that grows over
    10 epochs.

    T = t_start + t_span x sigmoid(theta), so T stays within (1, 21) and starts at 15.6 with theta = 1, not at
    4. kind "global" learns one theta; "instance" predicts one a sample with a two-layer perceptron from both
    nets' logits, which it sees without passing gradients on to the student. theta is trained by the student's
    optimiser, weight decay included, as in the authors' code. `standardize` z-scores the logits first
    (arXiv:2403.01427).
    """

    def __init__(
        self, *nets: *Nets, ce: float, kd: float, kind: str, t_start: float, t_span: float, curriculum_epochs: int,
        hidden: int, standardize: bool
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, ce=ce, kd=kd, temperature=1.0)
        if kind not in _KINDS:
            raise ValueError(f"method.kind is {kind!r}: give global (one theta) or instance (one a sample).")
        if t_start <= 0 or t_span < 0:
            raise ValueError(f"method.t_start={t_start}, t_span={t_span} allow temperature 0: use 1 and 20.")
        if not kd:
            raise ValueError("ctkd learns the temperature of soft targets: set method.kd above 0.")
        self.kind, self.t_start, self.t_span = kind, t_start, t_span
        self.curriculum_epochs, self.standardize = curriculum_epochs, standardize
        if kind == "global":
            self.theta = nn.Parameter(torch.ones(1))
        else:
            self.predictor = predictor(2 * student.num_classes, hidden)

    def temperature_of(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return T, [1] or [B,1], for logits [B,K]; its gradient is reversed."""
        if self.kind == "global":
            theta = self.theta
        else:
            theta = self.predictor(torch.cat([student, teacher], dim=1).detach()).float()
        theta = Reverse.apply(theta, curriculum(self.epoch, self.curriculum_epochs))
        return self.t_start + self.t_span * torch.sigmoid(theta)

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.standardize:
            student, teacher = z_score(student), z_score(teacher)
        return tempered_loss(student, teacher, self.temperature_of(student, teacher))


def predictor(inputs: int, hidden: int) -> nn.Sequential:
    """Return the perceptron for instance-wise temperatures; it starts near theta = 1, like the global one."""
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    last = layers[2]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.ones_(last.bias)
    return layers
