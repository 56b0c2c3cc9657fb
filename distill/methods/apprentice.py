"""Apprentice (Mishra, Marr, ICLR 2018, arXiv:1711.05852)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models.quant import enable, quantize


@full_precision
def imitation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """H(p_t, p_s), the cross-entropy of logits [B,K] with the teacher's probabilities at T=1 (eq. 1, last
    term).
    """
    return F.cross_entropy(student, teacher.softmax(1))


class Apprentice(Method):
    """weight x CE(z_t) + ce x CE(z_s) + kd x H(p_t, p_s) of a low-precision student (eq. 1), in three
    schemes.

    A: a teacher of the given architecture learns from scratch together with the student; all terms reach
    both nets. B: the given teacher is fixed, so that its own term has no gradient and is left out. C: a
    student trained in full precision first, then quantised and fine-tuned under the fixed teacher at a lower
    rate, for `tune_epochs`. Weights and inputs are rounded with learned steps (LSQ) in place of the paper's
    fixed clipping.
    """

    def __init__(
        self, *nets: *Nets, ce: float, kd: float, weight: float, scheme: str, weights: int, activations: int | None,
        ends: int | None, tune_epochs: int, tune_lr: float
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, ce=ce, kd=kd, temperature=1.0)
        if scheme not in ("A", "B", "C"):
            raise ValueError(f"method.scheme is {scheme!r}: apprentice has the schemes A, B and C.")
        self.weight, self.scheme, self.tune_epochs, self.tune_lr = weight, scheme, tune_epochs, tune_lr
        quantize(student, weights=weights, activations=activations, ends=ends)
        self.companion = self.teacher.twin() if scheme == "A" else None

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return imitation_loss(student, teacher)

    def joint_loss(self, batch: Batch) -> Losses:
        """Loss of scheme A."""
        assert self.companion is not None
        student = self.student(batch.inputs).logits
        teacher = self.companion(batch.views.get("teacher", batch.inputs)).logits
        return {
            "ce_teacher": self.weight * self.criterion(teacher, batch),
            **self.supervised(student, batch),
            "kd": self.kd * imitation_loss(student, teacher),
        }

    def full_precision_student(self) -> None:
        enable(self.student, False)

    def low_precision_student(self) -> None:
        enable(self.student, True, restart=True)

    def phases(self) -> list[Phase]:
        if self.companion is not None:
            return [Phase("joint", [Update("both", self.joint_loss, [self.student, self.companion])])]
        with_teacher = [Update("student", self.loss, [self.student])]
        if self.scheme == "B":
            return [Phase("distill", with_teacher)]
        alone = [Update("student", self.labels_alone, [self.student])]
        low = {"lr": self.tune_lr, "decay": "constant", "milestones": [], "warmup_epochs": 0}
        return [
            Phase("full-precision", alone, begin=self.full_precision_student, evaluates=False),
            Phase("fine-tune", with_teacher, self.tune_epochs, low, begin=self.low_precision_student),
        ]
