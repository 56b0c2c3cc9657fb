"""Cross-view consistency regularisation (Zhang, Huang, Liu, Huang, Wang, ACM MM 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.data.strong import StrongSource
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update

_Pair = tuple[Tensor, Tensor]


def soft_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_t^T || p_s^T) of each row of logits [B,K]."""
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


@full_precision
def view_losses(weak: _Pair, strong: _Pair, temperature: float, sure_weak: float, sure_strong: float) -> _Pair:
    """(within, across) of two views, each the logits [B,K] of student and teacher.

    within: each view's soft targets for the same view of the student, of the samples of whose weak view the teacher's
    largest probability is `sure_weak` or more. across: each view's targets for the other view, of the samples of whose
    strong view it is `sure_strong` or more. Both are means over all B samples.
    """
    trusted_weak = F.softmax(weak[1], dim=1).amax(dim=1) >= sure_weak
    trusted_strong = F.softmax(strong[1], dim=1).amax(dim=1) >= sure_strong
    within = soft_losses(*weak, temperature) + soft_losses(*strong, temperature)
    across = soft_losses(strong[0], weak[1], temperature) + soft_losses(weak[0], strong[1], temperature)
    return (within * trusted_weak).mean(), (across * trusted_strong).mean()


class CRLD(Method):
    """ce x CE on both views + within x within-view + across x cross-view soft targets that the teacher is sure of.

    The strong view is MLKD's: another crop and flip, RandAugment and Cutout (StrongSource).
    """

    refuses = {"mixup": "its strong view shows one image, not the mixed one"}

    def __init__(
        self, *nets: *Nets, ce: float, temperature: float, within: float, across: float, sure_weak: float,
        sure_strong: float
    ) -> None:
        super().__init__(*nets, ce=ce, temperature=temperature, kd=0.0)
        if not (0 <= sure_weak <= 1 and 0 <= sure_strong <= 1):
            raise ValueError(
                f"method.sure_weak is {sure_weak} and method.sure_strong {sure_strong}: probabilities are 0 to 1."
            )
        self.within, self.across = within, across
        self.sure_weak, self.sure_strong = sure_weak, sure_strong

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=StrongSource)]

    def loss(self, batch: Batch) -> Losses:
        view = batch.views["strong"]
        weak, strong = self.student(batch.inputs).logits, self.student(view).logits
        with torch.no_grad():
            taught_weak, taught_strong = self.teach(batch).logits, self.teacher(view).logits
        within, across = view_losses(
            (weak, taught_weak), (strong, taught_strong), self.temperature, self.sure_weak, self.sure_strong
        )
        losses = self.supervised(weak, batch, strong)
        return losses | {"within": self.within * within, "across": self.across * across}
