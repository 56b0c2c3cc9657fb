"""DIST: relations in place of values (Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv:2205.10536)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs

_EPS = 1e-8


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation [R] of each row of a and b [R,N], Pearson's; 0 for a constant row."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (vector_norm(a, dim=1) * vector_norm(b, dim=1) + _EPS)


@full_precision
def relation_losses(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (inter, intra): T^2 times 1 - mean correlation of predictions, logits [B,K].

    inter compares each sample's K probabilities, intra each class's B. The factor T^2 is in
    the authors' code and not in the paper.
    """
    p_s, p_t = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    inter = 1 - pearson(p_s, p_t).mean()
    intra = 1 - pearson(p_s.T, p_t.T).mean()
    return temperature**2 * inter, temperature**2 * intra


class DIST(Method):
    """CE + weight x (beta inter + gamma intra).

    The intra-class term relates the samples of one batch: over several devices, of each device's own part.
    """

    def __init__(self, *nets: *Nets, weight: float, beta: float, gamma: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.weight, self.beta, self.gamma = weight, beta, gamma

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        inter, intra = relation_losses(student.logits, teacher.logits, self.temperature)
        terms = {"inter": (self.beta, inter), "intra": (self.gamma, intra)}
        return {name: self.weight * share * term for name, (share, term) in terms.items() if share}
