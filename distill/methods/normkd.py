"""NormKD: each sample's own temperature (Chi, Zheng, Li, Yang, Wu, Lin, Cai 2023, arXiv:2308.00520)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from distill.losses import full_precision
from distill.method import Method, Nets


@full_precision
def normalised_loss(student: Tensor, teacher: Tensor, norm: float) -> Tensor:
    """mean_i T_i^2 KL(softmax(z_t / T_i) || softmax(z_s / S_i)) of logits [B,K], T_i and S_i being `norm` times the
    standard deviation (over K - 1) of the teacher's and of the student's logits of sample i.

    The student's own deviation is differentiated through, as in the authors' code.
    """
    t_teacher, t_student = (norm * logits.std(dim=1, keepdim=True) for logits in (teacher, student))
    log_student, log_teacher = F.log_softmax(student / t_student, dim=1), F.log_softmax(teacher / t_teacher, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
    return (t_teacher.square() * divergence).mean()


class NormKD(Method):
    """ce x CE + kd x soft targets at a temperature that makes the spread of every sample's logits 1 / norm."""

    def __init__(self, *nets: *Nets, ce: float, kd: float, norm: float) -> None:
        super().__init__(*nets, ce=ce, kd=kd, temperature=1.0)
        if norm <= 0:
            raise ValueError(f"method.norm is {norm}: it is a temperature for logits of deviation 1; 2 is usual.")
        self.norm = norm

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return normalised_loss(student, teacher, self.norm)
