"""Multi-level logit distillation (Jin, Wang, Lin, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.data.strong import StrongSource
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Method, Nets, Phase, Update
from distill.methods.kd import z_score
from distill.parts.choice import check_choice

_FORMS = ("authors", "paper")
CROSSED = 3  # temperatures from the fourth on, whose strong terms read the weak view in the authors' code


def low_confidence(confidence: Tensor) -> Tensor:
    """The share of confidences [N] that are at most their median: a half, and more where several are equal to it."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


@full_precision
def batch_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(1/B) ||P_t P_t' - P_s P_s'||^2 of predictions P [B,K] (batch level)."""
    p_s, p_t = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    return (p_t @ p_t.T - p_s @ p_s.T).square().sum() / student.shape[0]


@full_precision
def class_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(1/K) ||P_t' P_t - P_s' P_s||^2 of predictions P [B,K] (class level)."""
    p_s, p_t = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    return (p_t.T @ p_t - p_s.T @ p_s).square().sum() / student.shape[1]


class MLKD(Method):
    """Predictions at several temperatures agree per sample, between samples and between classes.

    ce x CE on both views + kd x instance level on both views + weight x (batch + class level) on the weak
    view, each summed over `temperatures`. The strong view is a crop and flip of its own with RandAugment and
    Cutout (StrongSource). `standardize` z-scores the logits of the instance level (arXiv:2403.01427).

    form="paper" is that and no more. form="authors" is their code, from which the published numbers come. It
    multiplies losses that are scalars by masks of what the teacher is less sure of than the median, samples (classes
    at the class level), so that the weak view's terms are scaled by the masks' mean, about 1/2; and the strong view's
    terms of the last two of the five temperatures read the weak view. Its gradient is 0.65 to 0.71 times that of the
    paper's form. The batch and class levels relate the samples of one batch: over several devices, of each device's
    own part.
    """

    refuses = {"mixup": "its strong view shows one image, not the mixed one"}

    def __init__(
        self, *nets: *Nets, ce: float, kd: float, weight: float, temperatures: Sequence[float], form: str,
        standardize: bool
    ) -> None:
        super().__init__(*nets, ce=ce, kd=kd, temperature=1.0)
        if not temperatures or min(temperatures) <= 0:
            raise ValueError(f"method.temperatures is {list(temperatures)}: name one or more, all above 0.")
        check_choice("form", form, _FORMS)
        self.weight, self.temperatures = weight, tuple(temperatures)
        self.form, self.standardize = form, standardize

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=StrongSource)]

    def loss(self, batch: Batch) -> Losses:
        weak, strong = self.student(batch.inputs).logits, self.student(batch.views["strong"]).logits
        with torch.no_grad():
            teacher_weak = self.teach(batch).logits
            teacher_strong = self.teacher(batch.views["strong"]).logits
        losses = self.supervised(weak, batch, strong)
        if self.kd:
            losses["kd"] = self.kd * self.instances((weak, teacher_weak), (strong, teacher_strong))
        if self.weight:
            losses |= self.correlations(weak, teacher_weak)
        return losses

    def instances(self, weak: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor]) -> Tensor:
        """The instance level of both views, each the logits [B,K] of student and teacher."""
        samples, _ = self.shares(weak[1])
        crossed = CROSSED if self.form == "authors" else len(self.temperatures)
        if self.standardize:
            weak, strong = ((z_score(student), z_score(teacher)) for student, teacher in (weak, strong))
        of_weak = [kd_loss(*weak, t) for t in self.temperatures]
        of_strong = [kd_loss(*strong, t) for t in self.temperatures[:crossed]] + of_weak[crossed:]
        return samples * _total(of_weak) + _total(of_strong)

    def correlations(self, student: Tensor, teacher: Tensor) -> Losses:
        """The batch and the class level of logits [B,K]."""
        samples, classes = self.shares(teacher)
        between_samples = _total([batch_loss(student, teacher, t) for t in self.temperatures])
        between_classes = _total([class_loss(student, teacher, t) for t in self.temperatures])
        return {"batch": self.weight * samples * between_samples, "class": self.weight * classes * between_classes}

    def shares(self, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the weak view's terms are scaled by, over samples and over classes, given the teacher's logits [B,K]."""
        if self.form == "paper":
            return (one := torch.ones((), device=teacher.device)), one
        predictions = teacher.float().softmax(dim=1)
        return low_confidence(predictions.amax(dim=1)), low_confidence(predictions.sum(dim=0))


def _total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(list(terms)).sum()
