"""DeepKD: three gradients, each with its momentum (Huang, Song, Zhang, Ren 2025, arXiv:2505.15133)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Method, Nets, Phase, Update
from distill.methods.dkd import other_classes, target_loss
from distill.methods.kd import z_score
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.split_momentum import MomentumPart, SplitStepper

_FORMS = ("authors", "paper")


@full_precision
def others_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, top_k: int) -> Tensor:
    """NCKD of logits [B,K] and labels [B], T^2 KL(q_t || q_s), q over the classes that are not the label.

    top_k: only those among the teacher's top_k classes (of all K) are kept, 0: all.
    """
    student, teacher, kept = other_classes(student, labels), other_classes(teacher, labels), teacher
    if top_k:
        least = kept.topk(min(top_k, kept.shape[1]), dim=1).values[:, -1:]
        noise = teacher < least
        student, teacher = student.masked_fill(noise, -1e9), teacher.masked_fill(noise, -1e9)
    return kd_loss(student, teacher, temperature)


@full_precision
def non_target_mass(teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """mean_i (1 - p_t^T[y]) of logits [B,K] and labels [B], by which KL's own non-target term is scaled."""
    return 1 - torch.softmax(teacher / temperature, dim=1).gather(1, labels[:, None]).mean()


class DeepStepper(SplitStepper):
    """Buffers for the task's gradient, that of the non-target classes and that of the target class.

    form="paper": momenta m + task, m + others and m + target, the weight decay with the task's gradient. "authors" is
    their code: the task's buffer has the target's momentum, and the weight decay goes with the target's gradient.
    """

    method = "deepkd"

    def parts(self, momentum: float, options: dict[str, Any]) -> list[MomentumPart]:
        deltas, form = options.pop("deepkd_deltas"), options.pop("deepkd_form")
        task, target, others = (momentum + float(delta) for delta in deltas)
        if not all(0 <= value < 1 for value in (task, target, others)):
            raise ValueError(
                f"method.deltas={list(deltas)} take momentum {momentum} out of [0, 1): [0.075, -0.075, 0.025] is usual."
            )
        authors = form == "authors"
        return [
            MomentumPart(("ce",), target if authors else task, decays=not authors),
            MomentumPart(("nckd",), others),
            MomentumPart(("tckd",), target, decays=authors),
        ]


class DeepKD(Method):
    """ce x CE, TCKD and NCKD, each minimised with a momentum of its own.

    decoupled=False (KD+DeepKD): the two terms of Hinton's KL, NCKD scaled by the mean of 1 - p_t of the label.
    decoupled=True (DKD+DeepKD): alpha TCKD and beta NCKD, with DKD's warm-up.
    """

    def __init__(
        self, *nets: *Nets, ce: float, temperature: float, decoupled: bool, alpha: float, beta: float,
        warmup_epochs: int, top_k: int, standardize: bool, deltas: Sequence[float], form: str
    ) -> None:
        super().__init__(*nets, ce=ce, temperature=temperature, kd=0.0)
        check_choice("form", form, _FORMS)
        if len(deltas) != 3:
            raise ValueError(f"method.deltas is {list(deltas)}: give three, for task, target and other classes.")
        if not ce or top_k < 0:
            raise ValueError(f"deepkd needs the cross-entropy (method.ce={ce}) and a method.top_k of 0 or more.")
        self.decoupled, self.alpha, self.beta, self.warmup_epochs = decoupled, alpha, beta, warmup_epochs
        self.top_k, self.standardize, self.deltas, self.form = top_k, standardize, tuple(deltas), form

    def phases(self) -> list[Phase]:
        options = {"deepkd_deltas": self.deltas, "deepkd_form": self.form}
        return [Phase("distill", [Update("student", self.loss, [self], optimizer=options, stepper=DeepStepper)])]

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        logits_s, logits_t = (z_score(net.logits) if self.standardize else net.logits for net in (student, teacher))
        target = self.by_label(lambda labels: target_loss(logits_s, logits_t, labels, self.temperature), batch)
        others = self.by_label(lambda labels: self.others(logits_s, logits_t, labels), batch)
        if not self.decoupled:
            return {"tckd": target, "nckd": others}
        warm = self.ramp(self.warmup_epochs)
        return {"tckd": warm * self.alpha * target, "nckd": warm * self.beta * others}

    def others(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """NCKD of logits [B,K] and labels [B], scaled by the teacher's doubt unless it is decoupled."""
        loss = others_loss(student, teacher, labels, self.temperature, self.top_k)
        return loss if self.decoupled else non_target_mass(teacher, labels, self.temperature) * loss
