"""What methods with several frozen teachers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs


class SeveralTeachers(Method):
    """ce x CE + `learn`, which sees what every teacher says of the batch.

    drop_last: leave out an epoch's last batch where it is smaller.
    """

    def __init__(self, *nets: *Nets, drop_last: bool, **common: Any) -> None:
        _, teachers, _ = nets
        super().__init__(*nets, **common)
        self.drop_last = drop_last
        if len(teachers) < 2:
            raise ValueError(
                f"{type(self).__name__} learns from two or more teachers, not {len(teachers)}: name them, "
                "teacher.models=[resnet56,resnet110], or take method=kd."
            )

    @classmethod
    def refused(cls, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Batches of other sizes, where its own setting leaves them out."""
        whole = "as method.drop_last=true says"
        return {**cls.refuses, "last_batch": whole} if settings.get("drop_last") else cls.refuses

    def phases(self) -> list[Phase]:
        source = (lambda source: source.replace(last_batch="drop")) if self.drop_last else None
        return [Phase("distill", [Update("student", self.loss, [self])], source=source)]

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        """Return all weighted losses but the cross-entropy."""
        raise NotImplementedError

    def teach_all(self, batch: Batch) -> list[Outputs]:
        """Run every teacher, in order, without gradients."""
        return [self.teach(batch, teacher) for teacher in self.teachers]

    def loss(self, batch: Batch) -> Losses:
        student = self.student(batch.inputs)
        return self.supervised(student.logits, batch) | self.learn(student, self.teach_all(batch), batch)


@full_precision
def kl_rows(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """T^2 KL(p_m || p_s) of each teacher and each image, [M,B], from logits [B,K] and M times [B,K]."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teachers = F.log_softmax(torch.stack(list(teachers)) / temperature, dim=2)
    return (log_teachers.exp() * (log_teachers - log_student)).sum(2) * temperature**2
