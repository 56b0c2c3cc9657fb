"""Refined logit distillation (Sun, Chen, Lyu, Chen, Chen, Wang, ICCV 2025, arXiv:2408.07703)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, kl_div
from distill.method import Losses, Method, Nets
from distill.methods.dkd import other_classes
from distill.methods.kd import z_score
from distill.models import Outputs

MASKED = -1e9  # the authors' logit of a class that is left out


def one_vs_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logits [B,2] of each row's class [B] and of all others together, of logits [B,K]."""
    rest = other_classes(logits, classes).logsumexp(dim=1)
    return torch.stack([logits.gather(1, classes[:, None]).squeeze(1), rest], dim=1)


@full_precision
def confidence_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SCD: T^2 KL((max p_t, 1 - max p_t) || (p_s[y], 1 - p_s[y])) of logits [B,K], labels [B] (sample confidence).

    The teacher's surest class, right or wrong, says how sure to be of the label.
    """
    sure = one_vs_rest(teacher / temperature, teacher.argmax(dim=1))
    return temperature**2 * kl_div(one_vs_rest(student / temperature, labels), sure)


@full_precision
def masked_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """MCD: T^2 KL(q_t || q_s), softmaxes of logits [B,K] over the classes that the teacher ranks below the label
    (masked correlation): label and what is put above it are left out. Where nothing is left the loss is 0.
    """
    left_out = teacher >= teacher.gather(1, labels[:, None])
    masked = [(logits / temperature).masked_fill(left_out, MASKED) for logits in (student, teacher)]
    log_student, log_teacher = (F.log_softmax(logits, dim=1) for logits in masked)
    return temperature**2 * F.kl_div(log_student, log_teacher.exp(), reduction="batchmean")


class RLD(Method):
    """CE + min(epoch / warmup_epochs, 1) x (alpha SCD + beta MCD); `standardize` z-scores the logits of both first."""

    def __init__(
        self, *nets: *Nets, confidence_temperature: float, alpha: float, beta: float, warmup_epochs: int,
        standardize: bool, **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(*nets, **common)
        if confidence_temperature <= 0:
            raise ValueError(f"method.confidence_temperature is {confidence_temperature}: a temperature is positive.")
        if student.num_classes < 3:
            raise ValueError(
                f"rld correlates the classes below the label, of which {data.name} has {student.num_classes - 1} "
                "at most: use method=kd."
            )
        self.confidence_temperature, self.alpha, self.beta = confidence_temperature, alpha, beta
        self.warmup_epochs, self.standardize = warmup_epochs, standardize

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        logits_s, logits_t = (z_score(net.logits) if self.standardize else net.logits for net in (student, teacher))
        warm, sure = self.ramp(self.warmup_epochs), self.confidence_temperature
        confidence = self.by_label(lambda labels: confidence_loss(logits_s, logits_t, labels, sure), batch)
        correlation = self.by_label(lambda labels: masked_loss(logits_s, logits_t, labels, self.temperature), batch)
        return {"scd": warm * self.alpha * confidence, "mcd": warm * self.beta * correlation}
