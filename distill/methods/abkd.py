"""Alpha-beta divergence in place of KL (Wang, Yang, Wang, Wang, Xu, Huang, ICML 2025, arXiv:2505.04560)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice

DIVERGENCES = ("alpha-beta", "jensen-shannon")


@full_precision
def alpha_beta(student: Tensor, teacher: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    """D_AB(p_t || p_s) of tempered softmaxes of logits [B,K], mean over the batch.

    -1/(a b) sum_k (p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)), and its limits where a, b or a + b is 0. (1, 0) is the
    forward KL(p_t || p_s), (0, 1) the reverse KL(p_s || p_t), (1/2, 1/2) four times the squared Hellinger distance.
    No factor T^2, as in the authors' code, which divides once, not twice, by the last number left at such a limit.
    """
    log_p, log_q = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
    gap = log_p - log_q
    if alpha == 0 and beta == 0:
        terms = gap.square() / 2
    elif alpha == 0:
        p, q = (beta * log_p).exp(), (beta * log_q).exp()
        terms = (-beta * gap * q - q + p) / beta**2
    elif beta == 0:
        p, q = (alpha * log_p).exp(), (alpha * log_q).exp()
        terms = (alpha * gap * p - p + q) / alpha**2
    elif alpha + beta == 0:
        terms = ((alpha * gap).exp() - alpha * gap - 1) / alpha**2
    else:
        total = alpha + beta
        crossed = (alpha * log_p + beta * log_q).exp()
        own = (alpha * (total * log_p).exp() + beta * (total * log_q).exp()) / total
        terms = (own - crossed) / (alpha * beta)
    return terms.sum(dim=1).mean()


@full_precision
def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(KL(p_t || m) + KL(p_s || m)) / 2, m = (p_t + p_s) / 2, of tempered softmaxes of logits [B,K], batch mean."""
    log_p, log_q = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
    middle = torch.stack([log_p, log_q]).logsumexp(dim=0) - math.log(2)
    terms = log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)
    return terms.sum(dim=1).mean() / 2


class ABKD(Method):
    """CE + weight x D(p_t, p_s): one file for forward and reverse KL, Hellinger, Jensen-Shannon and all between."""

    def __init__(self, *nets: *Nets, weight: float, divergence: str, alpha: float, beta: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        check_choice("divergence", divergence, DIVERGENCES)
        self.weight, self.divergence, self.alpha, self.beta = weight, divergence, alpha, beta

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        pair = student.logits, teacher.logits, self.temperature
        if self.divergence == "jensen-shannon":
            return {"abkd": self.weight * jensen_shannon(*pair)}
        return {"abkd": self.weight * alpha_beta(*pair, self.alpha, self.beta)}
