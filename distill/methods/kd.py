"""Knowledge distillation with soft targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531), plain or
standardised.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.losses import full_precision, kd_loss
from distill.method import Method, Nets

_EPS = 1e-7


@full_precision
def z_score(logits: Tensor) -> Tensor:
    """Return the z-score of each row of logits [B,K]: (z - mean) / (1e-7 + std), std over classes with K - 1.

    Logit Standardization in Knowledge Distillation (Sun et al., CVPR 2024, arXiv:2403.01427, algorithm 1; the
    sample standard deviation is the authors' code). Both nets' logits pass through it before they are divided
    by the base temperature, so that the student need not match the teacher's shift and variance.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (_EPS + logits.std(dim=1, keepdim=True))


class KD(Method):
    """ce x CE + kd x T^2 KL(p_t^T || p_s^T): both terms live in `Method`, whose `kd` is 0 elsewhere.

    With `standardize` the soft targets are those of the z-scored logits (arXiv:2403.01427); the cross-entropy
    keeps the raw ones. That is method=logit-standardization, with the weights that belong to it.
    """

    def __init__(self, *nets: *Nets, standardize: bool, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.standardize = standardize

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.standardize:
            student, teacher = z_score(student), z_score(teacher)
        return kd_loss(student, teacher, self.temperature)
