"""A projector and a normalisation: VkD (arXiv:2403.06213) and SRD (arXiv:2303.11098) in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.two_heads import TwoHeads

CHOICES = {
    "tap": ("pooled", "embedding", "map"),
    "projection": ("orthogonal", "linear"),
    "student_norm": ("none", "batch", "standard"),
    "teacher_norm": ("none", "batch", "untrained", "standard", "whiten"),
    "distance": ("smooth_l1", "mse", "logsum"),
}
_EPS = 1e-4  # of the batch normalisation in SRD's code
SHRINKAGE = 1e-3  # towards a multiple of the identity, for covariances of fewer samples than features


@full_precision
def normalise(x: Tensor, how: str) -> Tensor:
    """Normalise [B,D] or [B,D,H,W] without parameters, samples being all B (and positions).

    batch: each feature over the samples (SRD). untrained: the same in eval mode, with the statistics that it
    starts with (mean 0, variance 1), which is what a frozen teacher's is in torchdistill's SRD. standard: each
    sample over its features (VkD's layer norm). whiten: uncorrelated features of unit variance, by the Cholesky
    factor of the covariance (VkD, generative tasks).
    """
    rows = x.flatten(2).transpose(1, 2).flatten(0, 1) if x.ndim == 4 else x
    if how == "batch":
        rows = (rows - rows.mean(0)) / (rows.var(0, correction=0) + _EPS).sqrt()
    elif how == "untrained":
        rows = rows / (1 + _EPS) ** 0.5
    elif how == "standard":
        rows = F.layer_norm(rows, rows.shape[1:])
    elif how == "whiten":
        rows = _whiten(rows)
    return rows.view(x.shape[0], -1, x.shape[1]).transpose(1, 2).view(x.shape) if x.ndim == 4 else rows


def _whiten(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    floor = SHRINKAGE * covariance.diagonal().mean() + 1e-12
    covariance = covariance + floor * torch.eye(rows.shape[1], device=rows.device, dtype=rows.dtype)
    factor = torch.linalg.cholesky_ex(covariance).L  # the _ex form does not wait for the device
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


@full_precision
def distance(student: Tensor, teacher: Tensor, kind: str, exponent: float = 4.0) -> Tensor:
    """smooth_l1 (VkD) and mse are means over all entries; logsum is SRD's log sum |s - t|^exponent
    (eq. 9)."""
    if kind == "logsum":
        return ((student - teacher).abs().pow(exponent).sum() + torch.finfo(student.dtype).tiny).log()
    return F.smooth_l1_loss(student, teacher) if kind == "smooth_l1" else F.mse_loss(student, teacher)


class OrthogonalLinear(nn.Module):
    """A linear map whose matrix [outputs, inputs] has orthonormal columns (or rows, where it is wider than
    tall).

    It is the Cayley transform of a skew-symmetric matrix of low rank, applied to a random orthonormal base:
    exact for every value of the parameter, which weight decay pulls to the base. torch's own parametrisation
    of rectangular matrices keeps signs on its parameter's diagonal, and weight decay turns them to zeros.
    """

    base: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wide = inputs > outputs
        base = torch.linalg.qr(torch.randn(max(inputs, outputs), min(inputs, outputs))).Q
        self.register_buffer("base", base)
        self.move = nn.Parameter(torch.zeros_like(base))

    def matrix(self) -> Tensor:
        """[outputs, inputs] = B - U (I + V^T U / 2)^-1 V^T B, A = U V^T = M B^T - B M^T, base B, parameter
        M."""
        u = torch.cat([self.move, self.base], dim=1)
        v = torch.cat([self.base, -self.move], dim=1)
        inner = torch.eye(u.shape[1], device=u.device) + v.T @ u / 2
        moved = (
            self.base - u @ torch.linalg.solve_ex(inner, v.T @ self.base).result
        )  # _ex: no wait for the device
        return moved.T if self.wide else moved

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], in fp32: an orthogonal matrix rounded to bf16 is none."""
        with torch.autocast(x.device.type, enabled=False):
            return x.float() @ self.matrix().T


class KDProj(TwoHeads):
    """CE + kd KLT + weight d(norm_s(P f_s), norm_t(f_t)): P is trained with the student and then thrown away.

    VkD (the default): P with orthonormal columns, the teacher's embedding standardised, smooth L1. tap="pooled" is the
    mean of a transformer's patch tokens (behind its last norm, without class and distillation tokens), and of other
    nets what enters their classifier; tap="embedding" is that of all nets, the class token of a ViT. A student with a
    distillation head (DeiT's) learns labels with its class head and soft targets with that one, any other student both
    with its only head.
    SRD (method=srd): P linear, both sides batch-normalised without parameters, log sum |.|^4.
    Batch normalisation and whitening are over the device's own batch; over several devices each uses its
    part.
    """

    def __init__(
        self, *nets: *Nets, weight: float, tap: str, projection: str, student_norm: str, teacher_norm: str,
        distance: str, exponent: float, **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        given = dict(
            tap=tap,
            projection=projection,
            student_norm=student_norm,
            teacher_norm=teacher_norm,
            distance=distance,
        )
        for key, value in given.items():
            check_choice(key, value, CHOICES[key])
        self.weight, self.tap, self.exponent = weight, tap, exponent
        self.student_norm, self.teacher_norm, self.kind = student_norm, teacher_norm, distance
        self.project = self._projector(projection)

    def _projector(self, projection: str) -> nn.Module:
        maps, teacher = self.tap == "map", self.teacher
        inputs = self.student.channels[-1] if maps else self.student.embedding_dim
        outputs = teacher.channels[-1] if maps else teacher.embedding_dim
        if projection == "orthogonal":
            return OrthogonalLinear(inputs, outputs)
        if maps:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        return nn.Linear(inputs, outputs)

    def projected(self, x: Tensor) -> Tensor:
        """[B,D] or [B,C,H,W] of the student -> the teacher's width."""
        if isinstance(self.project, OrthogonalLinear) and x.ndim == 4:
            return self.project(x.movedim(1, -1)).movedim(-1, 1)
        return self.project(x)

    def tapped(self, outputs: Outputs) -> Tensor:
        """[B,D] of either net."""
        if self.tap == "pooled" and outputs.tokens is not None:
            return outputs.tokens.mean(1)
        return outputs.embedding

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        if self.tap == "map":
            source, target = pool_to(student.features[-1], teacher.features[-1])
        else:
            source, target = self.tapped(student), self.tapped(teacher)
        z_s = normalise(self.projected(source), self.student_norm)
        return {"proj": self.weight * distance(z_s, normalise(target, self.teacher_norm), self.kind, self.exponent)}
