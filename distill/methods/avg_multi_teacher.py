"""The average of several teachers (You, Xu, Xu, Tao, KDD 2017; Hinton et al. 2015 for the mean of probabilities)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.peers import mean_log_probability
from distill.parts.several import SeveralTeachers, kl_rows

AVERAGES = ("losses", "probabilities")


@full_precision
def mean_of_losses(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """(1/M) sum_m T^2 KL(p_m^T || p_s^T) of logits [B,K], mean over the batch."""
    return kl_rows(student, teachers, temperature).mean()


@full_precision
def loss_to_mean(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """T^2 KL((1/M) sum_m p_m^T || p_s^T) of logits [B,K], mean over the batch.

    Its gradient is that of `mean_of_losses`, since both are linear in the teachers' probabilities; its value is
    lower by what the teachers disagree.
    """
    target = mean_log_probability([logits / temperature for logits in teachers])
    log_student = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_student, target, reduction="batchmean", log_target=True) * temperature**2


class AvgMultiTeacher(SeveralTeachers):
    """ce x CE + kd x the teachers' average: of their losses, or of their probabilities (`average`).

    In the code behind its published rows (CA-MKD's) batches smaller than the batch size are left out (`drop_last`).
    """

    def __init__(self, *nets: *Nets, average: str, **common: Any) -> None:
        super().__init__(*nets, **common)
        check_choice("average", average, AVERAGES)
        self.average = mean_of_losses if average == "losses" else loss_to_mean

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        logits = [teacher.logits for teacher in teachers]
        return {"kd": self.kd * self.average(student.logits, logits, self.temperature)}
