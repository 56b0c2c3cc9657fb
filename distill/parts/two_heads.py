"""Students with a distillation token: labels train one head, the teacher the other (DeiT, arXiv:2012.12877)."""

from __future__ import annotations

from torch import Tensor

from distill.batch import Batch
from distill.method import Losses, Method
from distill.models import Outputs


def logits_of_heads(student: Outputs) -> tuple[Tensor, Tensor]:
    """Logits [B,K] that labels are compared with, and those that the teacher is: the same of a net with one head."""
    return student.heads or (student.logits, student.logits)


class TwoHeads(Method):
    """ce x CE of the class head + kd x T^2 KL of the distillation head + `distill`."""

    def loss(self, batch: Batch) -> Losses:
        """All losses of a batch; the running accuracy is that of what is evaluated, the mean of both heads."""
        student, teacher = self.student(batch.inputs), self.teach(batch)
        for_labels, for_teacher = logits_of_heads(student)
        losses = self.supervised(for_labels, batch)
        self.count(student.logits, batch.labels)
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(for_teacher, teacher.logits)
        return losses | self.distill(student, teacher, batch)
