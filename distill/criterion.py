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
