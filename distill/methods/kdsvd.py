"""Self-supervised knowledge distillation by SVD (Lee, Kim, Song, ECCV 2018, arXiv:1807.06819)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.engine.optim import Stepper
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.parts.stages import equal_channels, stage_pairs
from distill.parts.svd import align, leading_vectors

_TASK = ("ce", "kd")
CANDIDATES = 3
"""Student vectors beyond `k` among which the teacher's partners are sought."""


def compress(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `k` vectors [B,C,k] of each map: the teacher's leading ones, and the student's nearest to them.

    Maps [B,C,H,W] and [B,C,H',W'] of as many channels. Both are scaled by the teacher's singular values,
    which are made a unit vector over the k.
    """
    v_t, values = leading_vectors(teacher, k)
    v_s, _ = leading_vectors(student, min(k + CANDIDATES, student.shape[1], student[0, 0].numel()))
    scale = F.normalize(values, dim=1)[:, None]
    return align(v_s, v_t) * scale, v_t * scale


@full_precision
def rbf_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Squared difference of both nets' RBF between adjacent stages' vectors, summed, mean over the batch.

    Each a pair of [B,C,k] and [B,C',k] (shallow, deep); rbf = exp(-(deep_i - shallow_j)^2 / 8), for every
    pair of channels and each of the k. Elements that are not finite count as zero.
    """
    gap = (rbf(*student) - rbf(*teacher)).square()
    return torch.where(gap.isfinite(), gap, 0.0).sum() / len(gap)


def rbf(shallow: Tensor, deep: Tensor) -> Tensor:
    """Return [B,C',C,k] from vectors [B,C,k] and [B,C',k]."""
    return torch.exp((deep[:, :, None] - shallow[:, None]).square() / -8)


class ClippedStepper(Stepper):
    """Clips the gradient of a method's own losses, parameter by parameter, to the norm of the task's.

    The task is ce and kd. The bound rises as sigmoid(epoch), from a half in the first epoch on, as in the
    authors' code. Costs a second backward pass through the student.
    """

    rise = 0.5

    def set_lr(self, step: int, steps: int, epochs: int) -> float:
        self.rise = 1 / (1 + math.exp(-(step // steps)))
        return super().set_lr(step, steps, epochs)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate((loss for name, loss in losses.items() if name not in _TASK), again=True)
        extras = [parameter.grad for parameter in self.parameters]
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(loss for name, loss in losses.items() if name in _TASK)
        for parameter, extra in zip(self.parameters, extras, strict=True):
            main = parameter.grad
            if main is not None and extra is not None:
                main += clipped(extra, main, self.rise)


def clipped(extra: Tensor, main: Tensor, rise: float) -> Tensor:
    """Return `extra`, shortened to `rise` x the norm of `main` where it is longer."""
    bound = rise * torch.linalg.vector_norm(main)
    return extra * (bound / torch.linalg.vector_norm(extra).clamp_min(1e-12)).clamp_max(1.0)


def clipping(clip: bool, ce: float, kd: float, method: str) -> None:
    """ValueError where there is nothing to clip to."""
    if clip and not (ce or kd):
        raise ValueError(f"method.ce and method.kd are 0, and {method} clips to them: set one, or clip=false.")


class KDSVD(Method):
    """ce x CE + weight x sum over adjacent stages of the RBF loss between their leading singular vectors.

    Deviations: the sign of the teacher's vectors, which an SVD leaves open and the loss depends on, is fixed
    (see distill.parts.svd), as are gradients near equal singular values. As in the CRD tables' code, the gradient is
    not clipped, and the weight of 1 is mdistiller's, whose matrices (channels and rows by columns, in place of
    positions by channels) give values about a fifth as large; neither prints a number. The first authors' number
    (sseung0703/KD_methods_with_TF) is of a sum over the batch, whose gradient is clipped to the size of the task's:
    `over_batch` and `clip`, as experiment=mhgd has them.
    """

    def __init__(self, *nets: *Nets, weight: float, k: int, over_batch: str, clip: bool, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if over_batch not in ("mean", "sum"):
            raise ValueError(f"method.over_batch is {over_batch!r}: give mean or sum.")
        self.weight, self.k, self.over_batch, self.clip = weight, k, over_batch, clip
        clipping(clip, self.ce, self.kd, "kdsvd")
        check_stage_pairs(student, self.teacher, k, "kdsvd")

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        stages = zip(student.features, teacher.features, strict=True)
        vectors = [compress(s, t, self.k) for s, t in stages]
        losses = [rbf_loss((a[0], b[0]), (a[1], b[1])) for a, b in pairwise(vectors)]
        images = len(batch) if self.over_batch == "sum" else 1
        return {"kdsvd": self.weight * images * torch.stack(losses).sum()}

    def phases(self) -> list[Phase]:
        stepper = ClippedStepper if self.clip else None
        return [Phase("distill", [Update("student", self.loss, [self], stepper=stepper)])]


def check_stage_pairs(student: FeatureNet, teacher: FeatureNet, k: int, method: str) -> None:
    """ValueError where vectors of the two nets cannot be compared, or are not as many as k."""
    pairs = stage_pairs(student, teacher, method)
    equal_channels(pairs, student.name, teacher.name, method)
    if len(pairs) < 2:
        raise ValueError(f"{method} needs two stages, and {student.name} has one: take method=at instead.")
    most = min(min(shape[0], shape[1] * shape[2]) for pair in pairs for shape in pair)
    if not 1 <= k <= most:
        raise ValueError(
            f"{method} takes {k} singular vectors a map, and the maps {pairs} of {student.name} and "
            f"{teacher.name} have 1 to {most}: set k accordingly, or take method=at."
        )
