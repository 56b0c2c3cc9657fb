"""Quantization-aware knowledge distillation (Kim et al. 2019, arXiv:1911.12491)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from distill.batch import Batch
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models.quant import quantize
from distill.models.reading import frozen_statistics


class QKD(Method):
    """Three phases: self-studying (cross-entropy alone), co-studying (teacher and student teach each other),
    tutoring.

    Co-studying: ce x CE + kd x T^2 KL for either net, each against the other's detached answer (eq. 5-6), on
    a copy of the teacher that is trained; tutoring: the student alone, under that copy, now frozen. The
    paper's learned quantiser is LSQ here, with a step a layer.
    """

    def __init__(
        self, *nets: *Nets, weights: int, activations: int | None, ends: int | None, self_epochs: int,
        tutor_epochs: int, teacher_lr: float, tutor_lr: float, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        quantize(student, weights=weights, activations=activations, ends=ends)
        self.self_epochs, self.tutor_epochs = self_epochs, tutor_epochs
        self.teacher_lr, self.tutor_lr = teacher_lr, tutor_lr
        self.tutor = copy.deepcopy(self.teacher).requires_grad_(True)

    def student_loss(self, batch: Batch) -> Losses:
        """Loss of the student in co-studying and tutoring."""
        student = self.student(batch.inputs).logits
        self.count(student, batch.labels)
        with frozen_statistics(self.tutor):  # while it is trained, its own loss counts the batch
            teacher = self.teach(batch, self.tutor).logits
        return self.both("", student, teacher, batch)

    def teacher_loss(self, batch: Batch) -> Losses:
        """Loss of the teacher's copy in co-studying, against the student's answer of this step."""
        teacher = self.tutor(batch.views.get("teacher", batch.inputs)).logits
        assert self.counted is not None
        return self.both("_teacher", teacher, self.counted[0], batch)

    def both(self, name: str, logits: Tensor, other: Tensor, batch: Batch) -> Losses:
        losses = {f"ce{name}": self.ce * self.criterion(logits, batch)} if self.ce else {}
        return losses | {f"kd{name}": self.kd * self.soft_targets(logits, other)}

    def co_study(self) -> None:
        self.tutor.requires_grad_(True)

    def freeze_tutor(self) -> None:
        self.tutor.requires_grad_(False)

    def phases(self) -> list[Phase]:
        student = Update("student", self.student_loss, [self.student])
        teacher = Update("teacher", self.teacher_loss, [self.tutor], {"lr": self.teacher_lr})
        steady = {"decay": "constant", "milestones": [], "warmup_epochs": 0}
        low = {**steady, "lr": self.tutor_lr}
        alone = Update("student", self.labels_alone, [self.student])
        phases = [
            Phase("self-study", [alone], self.self_epochs, steady, begin=self.freeze_tutor),
            Phase("co-study", [student, teacher], begin=self.co_study),
            Phase("tutor", [student], self.tutor_epochs, low, begin=self.freeze_tutor),
        ]
        return [phase for phase in phases if phase.epochs != 0]
