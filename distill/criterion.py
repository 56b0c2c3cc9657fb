"""What counts as right: the criterion of `Method.supervised`.

Shape letters: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch


class Criterion(Protocol):
    """The unweighted cost of logits [B,K]; reduction: "mean" over the batch, or "none" for each sample's own [B]."""

    def __call__(self, logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor: ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with the batch's labels, or its mixed targets, smoothed as the schedule says."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits, batch.truth, reduction=reduction, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of each class by itself, mean over images and classes, with smoothed labels or mixed targets
    (Wightman et al. 2021, arXiv:2110.00476, section 3; timm's BinaryCrossEntropy with its Mixup).

    threshold: targets above it are 1 and others 0, after smoothing and mixing.
    """

    label_smoothing: float = 0.0
    threshold: float | None = None

    def __call__(self, logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
        truth, classes = batch.truth, logits.shape[1]
        targets = truth if truth.is_floating_point() else F.one_hot(truth, classes)
        targets = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.threshold is not None:
            targets = (targets > self.threshold).to(logits.dtype)
        costs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return costs if reduction == "none" else costs.mean()


def criterion_of(loss: str, label_smoothing: float, threshold: float | None) -> Criterion:
    """What a schedule's keys loss, label_smoothing and bce_threshold count as right."""
    return BinaryCrossEntropy(label_smoothing, threshold) if loss == "bce" else CrossEntropy(label_smoothing)
