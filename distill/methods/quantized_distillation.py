"""Quantised distillation (Polino, Pascanu, Alistarh, ICLR 2018, arXiv:1802.05668)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.method import Method, Nets
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
        self, *nets: *Nets, mean_classes: bool, weights: int, activations: int | None, ends: int | None, bucket: int,
        everything: bool, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.mean_classes = mean_classes
        bits: dict[str, int | None] = dict(weights=weights, activations=activations, ends=ends)
        quantize(student, **bits, bucket=bucket, everything=everything)

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        loss = super().soft_targets(student, teacher)
        return loss / student.shape[1] if self.mean_classes else loss
