"""The virtual teacher, Tf-KD_reg (Yuan, Tay, Li, Wang, Feng, CVPR 2020, arXiv:1909.11723)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets


def virtual_teacher(classes: int, correct: float, temperature: float) -> Tensor:
    """Return the teacher's distribution [K,K], a row a label: softmax(u / T).

    u is a distribution already, `correct` on the label and (1 - correct) / (K - 1) elsewhere; the authors
    temper it as if it were logits, which at T = 20 makes it almost uniform.
    """
    u = torch.full((classes, classes), (1 - correct) / max(classes - 1, 1))
    u.fill_diagonal_(correct)
    return (u / temperature).softmax(1)


@full_precision
def virtual_teacher_loss(logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher[label] || softmax(z)), mean over the batch, of logits [B,K] with the teacher's rows [K,K].

    The student is not tempered and there is no T^2, as in the authors' code.
    """
    return F.kl_div(logits.log_softmax(1), teacher[labels], reduction="batchmean")


class TfKDReg(Method):
    """Cross-entropy and the KL from a hand-made teacher that is right with probability `correct`.

    The authors' multiplier, 100, undoes their mean over the 100 classes: here it is 1.
    """

    teacher_rows: Tensor

    def __init__(self, *nets: *Nets, correct: float, **common: Any) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        if not 1 / student.num_classes < correct <= 1:
            raise ValueError(f"method.correct is {correct}: the virtual teacher must be right, say 0.99.")
        rows = virtual_teacher(student.num_classes, correct, self.temperature)
        self.register_buffer("teacher_rows", rows, persistent=False)

    def loss(self, batch: Batch) -> Losses:
        logits = self.student(batch.inputs).logits
        virtual = self.by_label(lambda labels: virtual_teacher_loss(logits, labels, self.teacher_rows), batch)
        return self.supervised(logits, batch) | {"kd": self.kd * virtual}
