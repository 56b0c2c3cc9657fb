"""Quantised distillation (Polino, Pascanu, Alistarh, ICLR 2018, arXiv:1802.05668)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill.data import DataInfo
from distill.method import Method
from distill.models import FeatureNet
from distill.models.quant import quantize


class QuantizedDistillation(Method):
    """ce x CE + kd x T^2 KL of a student whose weights are rounded in the forward pass (algorithm 1).

    In the authors' code, and with `mean_classes`, the KL is a mean over samples and classes, so that `kd` weighs a
    K-th of what it does in method=kd.

    Weights, and with `everything` biases and BatchNorm's vectors, are scaled linearly in buckets and rounded to
    2^bits levels; gradients at the rounded weights go to the full-precision ones. Differentiable quantisation
    (algorithm 2), which moves the levels instead, is not offered.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 0.3,
        kd: float = 0.7,
        temperature: float = 2.0,
        mean_classes: bool = True,
        weights: int = 4,
        activations: int | None = None,
        ends: int | None = 4,
        bucket: int = 256,
        everything: bool = True,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
        self.mean_classes = mean_classes
        bits: dict[str, int | None] = dict(weights=weights, activations=activations, ends=ends)
        quantize(student, **bits, bucket=bucket, everything=everything)

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        loss = super().soft_targets(student, teacher)
        return loss / student.shape[1] if self.mean_classes else loss
