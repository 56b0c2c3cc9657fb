"""Class-wise self-knowledge distillation, CS-KD (Yun, Park, Lee, Shin, CVPR 2020, arXiv:2003.13964)."""

from __future__ import annotations

from typing import Any

import torch

from distill.batch import Batch
from distill.data.pairs import Partners
from distill.method import Losses, Method, Nets, Phase, Update


class CSKD(Method):
    """CE(x) + kd x T^2 KL(p(x') || p(x)), x' an image of x's class, no gradient through x' (eq. 1-2).

    The partners pass through the net in train mode, so BatchNorm sees them too, as in the authors' code,
    whose sampler may pair an image with itself too. Partners have no cross-entropy.
    """

    refuses = {"mixup": "the partner of an image is one of its class, and a mixed image has two"}

    def __init__(self, *nets: *Nets, **common: Any) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        with torch.no_grad():
            partner = self.student(batch.views["partner"]).logits
        return self.supervised(logits, batch) | {"kd": self.kd * self.soft_targets(logits, partner)}

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=Partners)]
