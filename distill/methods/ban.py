"""Born-again networks (Furlanello, Lipton, Tschannen, Itti, Anandkumar, ICML 2018, arXiv:1805.04770)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, kl_div
from distill.method import Nets
from distill.parts.choice import check_choice
from distill.parts.generations import Generations

_VARIANTS = ("plain", "cwtm", "dkpp")


@full_precision
def confidence_weighted(costs: Tensor, logits_t: Tensor) -> Tensor:
    """CWTM: cross-entropies [B] with the label, weighted by the confidence of the teacher's logits [B,K] (section 3.2).

    sum_i w_i CE_i, w_i = max_c p_ic / sum_j max_c p_jc: of the teacher is left which samples count.
    """
    confidence = logits_t.softmax(1).amax(1)
    return (costs * confidence / confidence.sum()).sum()


def permute_dark_knowledge(logits_t: Tensor) -> Tensor:
    """DKPP: logits [B,K] whose values below the largest are shuffled among themselves, a draw a sample."""
    top = logits_t.argmax(1, keepdim=True)
    order = torch.rand(logits_t.shape, device=logits_t.device).scatter(1, top, -1.0).argsort(dim=1)
    places = torch.arange(logits_t.shape[1], device=logits_t.device).expand_as(logits_t)
    places = places.scatter(1, top, -1).argsort(dim=1)
    return logits_t.scatter(1, places, logits_t.gather(1, order))


class BAN(Generations):
    """A student of its teacher's architecture, several times over: CE + KL(previous generation || student).

    `variant` asks what makes it work: "cwtm" keeps only the teacher's confidence, as a weight of the sample's
    cross-entropy; "dkpp" keeps the largest output and permutes the others; the paper's rows of these two have no
    further term of labels (ce=0, the YAML's default there), and so have its plain rows without labels. KL and the
    paper's cross-entropy with soft targets have the same gradient.
    """

    def __init__(self, *nets: *Nets, variant: str, **common: Any) -> None:
        super().__init__(*nets, **common)
        check_choice("variant", variant, _VARIANTS)
        self.variant = variant

    def inherit(self, logits: Tensor, logits_t: Tensor, batch: Batch) -> Tensor:
        if self.variant == "cwtm":
            return confidence_weighted(self.criterion(logits.float(), batch, "none"), logits_t)
        if self.variant == "dkpp":
            return kl_div(logits, permute_dark_knowledge(logits_t), self.temperature) * self.temperature**2
        return self.soft_targets(logits, logits_t)
